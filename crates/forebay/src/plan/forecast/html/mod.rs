//! The page with charts: one file that opens offline. Everything in it stands in `--json` too.

mod charts;
mod svg;

use std::fs::OpenOptions;
use std::path::Path;

use super::page::{assumptions, first_page, limits_told};
use super::sweep::Sweep;
use super::{Forecast, Question};
use crate::stop::Stop;
use svg::escaped;

const STYLE: &str = "\
:root{--ink:#1c2733;--soft:#5d6b78;--line:#dfe4e8;--card:#fff;--page:#f4f6f8;--today:#8b97a3;--ours:#0b7a75;--bad:#c2410c;--gpu:#274c77;--host:#6096ba;--memory:#0b7a75;--drive:#5fb49c;--fresh:#d9dee3}\
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa7b4;--line:#2c3742;--card:#182028;--page:#10161c;--today:#7d8a97;--ours:#2ab3a6;--bad:#fb923c;--gpu:#6d9bd1;--host:#8fc0e0;--memory:#2ab3a6;--drive:#86d3bd;--fresh:#3a4550}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}\
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:24px;margin:0 0 4px}h2{font-size:16px;margin:0 0 2px}\
p{margin:4px 0;color:var(--soft)}.answer{font-size:18px;color:var(--ink);margin:10px 0 18px}.grid{display:grid;grid-template-columns:1fr 1fr;gap:16px}\
@media(max-width:820px){.grid{grid-template-columns:1fr}}section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;min-width:0}\
.wide{grid-column:1/-1}svg{display:block;width:100%;height:auto;margin-top:8px}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .soft{fill:var(--soft)}\
pre{overflow-x:auto;font:12.5px/1.55 ui-monospace,monospace;margin:8px 0 0}table{border-collapse:collapse;width:100%;font-size:13px}td{border-top:1px solid var(--line);padding:5px 10px 5px 0;vertical-align:top;overflow-wrap:anywhere}td:first-child{white-space:nowrap;color:var(--soft)}";

/// Whether it can be written there, before a forecast is made for it: what is there stays as it is, and what is not there is not there afterwards.
pub(crate) fn can_be_written(to: &Path) -> Result<(), Stop> {
    let failed = |e| Stop::Failed(format!("the page {} cannot be written: {e}", to.display()));
    let there = to.exists();
    OpenOptions::new().append(true).create(true).open(to).map_err(failed)?;
    if there { Ok(()) } else { std::fs::remove_file(to).map_err(failed) }
}

/// Writes it.
pub(crate) fn write(to: &Path, question: &Question, forecast: &Forecast, sweep: Option<&Sweep>) -> Result<(), Stop> {
    let failed = |e| Stop::Failed(format!("the page {} cannot be written: {e}", to.display()));
    std::fs::write(to, page(question, forecast, sweep)).map_err(failed)
}

fn page(question: &Question, forecast: &Forecast, sweep: Option<&Sweep>) -> String {
    let first = first_page(question, forecast);
    let title = format!("What Forebay is worth to {}", question.source);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title><style>{STYLE}</style></head>\n<body><main>\n<h1>{}</h1>\n<p>{}</p>\n<p class=\"answer\">{}</p>\n<div class=\"grid\">\n",
        escaped(&title),
        escaped(&title),
        escaped(&first[0]),
        escaped(&answer(question, forecast))
    );
    let mut section = |wide: bool, head: &str, text: &str, body: &str| {
        let class = if wide { " class=\"wide\"" } else { "" };
        out.push_str(&format!("<section{class}><h2>{}</h2><p>{}</p>{body}</section>\n", escaped(head), escaped(text)));
    };
    let advice = &forecast.advice;
    section(false, "What the fleet costs", "Dollars an hour, for the same promise.", &charts::cost(advice));
    section(
        false,
        "Where prompt tokens come from",
        "Share of all prompt tokens. What is not found is computed.",
        &charts::tiers(advice),
    );
    section(
        false,
        "First token",
        "Share of requests that have their first token within so many seconds.",
        &charts::first_token(question, advice),
    );
    section(false, "What is used up", "Of each limit; above 100 % something has to give.", &charts::limits(advice));
    if let Some(sweep) = sweep {
        section(true, "Other fleets", "Dollars an hour of each fleet that was tried.", &charts::sweep(question, sweep));
    }
    if !forecast.moves.is_empty() {
        let text = "Dollars an hour saved with one assumption halved (light) and doubled (dark). Left of the zero Forebay costs more than it saves.";
        section(true, "What moves the answer", text, &charts::moves(forecast));
    }
    section(true, "The first page", "As on a terminal.", &format!("<pre>{}</pre>", escaped(&first[1..].join("\n"))));
    let told: Vec<String> =
        limits_told(question, advice).iter().map(|line| format!("<p>{}</p>", escaped(line))).collect();
    section(true, "What the limits say", "", &told.concat());
    let rows: Vec<String> = assumptions(question)
        .iter()
        .map(|(name, value)| format!("<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value)))
        .collect();
    let text = "Nothing here is a measurement unless it says so.";
    section(true, "What it rests on", text, &format!("<table>{}</table>", rows.concat()));
    out.push_str("</div></main></body></html>\n");
    out
}

/// One sentence.
fn answer(question: &Question, forecast: &Forecast) -> String {
    let advice = &forecast.advice;
    let cash = advice.cash();
    let (released, per_month) = (advice.released_gpus(&question.scenario), cash.abs() * super::page::MONTH_HOURS);
    let gpus = match released {
        0 => "It needs as many GPUs".to_owned(),
        1.. => format!("It releases {released} GPUs"),
        _ => format!("It needs {} GPUs more", -released),
    };
    let saves = if cash >= 0.0 { "saves" } else { "costs" };
    let money = crate::say::grouped(per_month.round() as u64);
    format!("{gpus} and {saves} {money} $ a month, storage included.")
}
