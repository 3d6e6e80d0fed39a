//! What a node saved and cost, from its figures: a line for each namespace, at most 80 columns wide.

use serde_json::{Value, json};

use crate::say::grouped;

/// What programs get: the accounts, the curve, and what money is reckoned by.
pub(crate) fn json(stats: &Value) -> Value {
    let accounts: Vec<Value> = namespaces(stats)
        .map(|space| {
            let mut account = space["money"].clone();
            account["namespace"] = space["name"].clone();
            account["refused"] = space["put"]["refused"].clone();
            account["usage"] = space["usage"].clone();
            account
        })
        .collect();
    json!({ "money": accounts, "curve": stats["curve"], "money_by": stats["money_by"], "policy": stats["policy"] })
}

/// What people get.
pub(crate) fn lines(stats: &Value) -> Vec<String> {
    let mut lines = vec![row(["namespace", "tokens found", "computed", "GPU s", "saved", "held h", "storage"])];
    let (mut all, mut models) = (Account::default(), Vec::new());
    for space in namespaces(stats) {
        let account = Account::of(&space["money"]);
        let name = space["name"].as_str().unwrap_or("?");
        lines.push(account.row(name));
        all.add(&account);
        if let Some(model) =
            space["money"]["model"].as_str().filter(|model| !models.contains(model) && account.is_told())
        {
            models.push(model);
        }
    }
    if lines.len() > 2 {
        lines.push(all.row("all"));
    }
    lines.push(String::new());
    let by = stats["money_by"].as_str().unwrap_or("the default book");
    if models.is_empty() {
        lines.push("Nobody has said how many tokens blocks hold: nothing is reckoned in money.".to_owned());
    } else {
        lines.push(format!("Reckoned for {}.", models.join(", ")));
        lines.push(format!("{by}."));
        lines.push("held h: token-hours. storage: wear or time on the drives, whichever is more.".to_owned());
    }
    if let Some(line) = curve(stats) {
        lines.push(line);
    }
    lines.extend(used(stats));
    for space in namespaces(stats) {
        lines.extend(admission(space["name"].as_str().unwrap_or("?"), &space["money"]));
    }
    lines
}

/// What adapters used of what was served, as recorded over all lives of the node, if any reported.
fn used(stats: &Value) -> Option<String> {
    let sum = |name: &str| namespaces(stats).filter_map(|space| space["usage"][name].as_u64()).sum::<u64>();
    let served = sum("served_dram_tokens") + sum("served_nvme_tokens");
    let (requests, used) = (sum("reported_requests"), sum("used_tokens"));
    (requests > 0).then(|| {
        format!("Recorded over all lives: {} tokens used of {} served (stat --usage).", grouped(used), grouped(served))
    })
}

/// By what a namespace's blocks are admitted, where that is not all of them, or was not.
fn admission(name: &str, money: &Value) -> Vec<String> {
    let refused = |reason: &str| money["refused_blocks"][reason].as_u64().unwrap_or(0);
    let (unpaid, over) = (refused("will_not_pay"), refused("over_budget"));
    let pays_from = 100.0 * money["pays_from_share"].as_f64().unwrap_or(0.0);
    let how = match money["admission"].as_str().unwrap_or("") {
        "wear_price" if pays_from >= 100.0 => "what is wanted again; nothing new pays for its wear".to_owned(),
        "wear_price" => format!("what pays for its wear, from {pays_from:.0} in 100 that come back"),
        "shadow_price" => "worth most by the byte: the write budget is short".to_owned(),
        "likely_only" => "likely to come back: the write budget is short".to_owned(),
        "no_model" => "all, since its fingerprint names no model of the book".to_owned(),
        "no_tokens" => "all, since nobody says how many tokens blocks hold".to_owned(),
        "nothing_learned" => "all, since nothing is learned of what comes back".to_owned(),
        _ if unpaid + over > 0 => "all, endurance is to spare".to_owned(),
        _ => return Vec::new(),
    };
    let name: String = name.chars().take(12).collect();
    let mut lines = vec![format!("Admitted to {name}: {how}.")];
    if unpaid + over > 0 {
        lines.push(format!("  refused blocks: {} will_not_pay, {} over_budget", grouped(unpaid), grouped(over)));
    }
    lines
}

/// What other capacities would find, in a line.
pub(crate) fn curve(stats: &Value) -> Option<String> {
    let of = |capacity: &str| Some(format!("{:.0} %", 100.0 * stats["curve"][capacity].as_f64()?));
    let (half, now, twice) = (of("half")?, of("now")?, of("twice")?);
    Some(format!("Blocks found by LRU: half the capacity {half}, now {now}, twice {twice}."))
}

fn namespaces(stats: &Value) -> impl Iterator<Item = &Value> {
    stats["namespaces"].as_array().into_iter().flatten()
}

#[derive(Debug, Default)]
struct Account {
    hit: u64,
    missed: u64,
    saved_s: f64,
    saved: f64,
    held_token_s: u64,
    storage: f64,
}

impl Account {
    fn of(money: &Value) -> Self {
        let count = |name: &str| money[name].as_u64().unwrap_or(0);
        let figure = |name: &str| money[name].as_f64().unwrap_or(0.0);
        Account {
            hit: count("tokens_hit"),
            missed: count("tokens_missed"),
            saved_s: figure("gpu_s_saved"),
            saved: figure("dollars_saved"),
            held_token_s: count("held_token_s"),
            // A node of an older build knows wear only.
            storage: figure("storage_dollars").max(figure("written_dollars")),
        }
    }

    fn is_told(&self) -> bool {
        self.hit + self.missed > 0
    }

    fn add(&mut self, other: &Account) {
        self.hit += other.hit;
        self.missed += other.missed;
        self.saved_s += other.saved_s;
        self.saved += other.saved;
        self.held_token_s += other.held_token_s;
        self.storage += other.storage;
    }

    fn row(&self, name: &str) -> String {
        let (saved_s, saved, held) = match self.is_told() {
            true => (format!("{:.1}", self.saved_s), dollars(self.saved), grouped(self.held_token_s / 3600)),
            false => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
        };
        row([name, &grouped(self.hit), &grouped(self.missed), &saved_s, &saved, &held, &dollars(self.storage)])
    }
}

/// As many digits as say something.
fn dollars(dollars: f64) -> String {
    match dollars {
        0.0 => "0 $".to_owned(),
        dollars if dollars < 0.01 => format!("{dollars:.5} $"),
        dollars => format!("{dollars:.2} $"),
    }
}

/// 80 columns: a name that is longer is cut.
fn row([name, hit, missed, seconds, saved, held, storage]: [&str; 7]) -> String {
    let name: String = name.chars().take(12).collect();
    format!("{name:<12} {hit:>13} {missed:>12} {seconds:>8} {saved:>9} {held:>10} {storage:>10}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> Value {
        let money = |hit: u64, seconds: f64| {
            json!({"model": "llama-3.1-8b", "tokens_hit": hit, "tokens_missed": 1000, "gpu_s_saved": seconds,
                "dollars_saved": seconds * 2.5 / 3600.0, "written_dollars": 0.00001,
                "held_token_s": 7_200_000, "storage_dollars": 0.03})
        };
        let space =
            |name: &str, money: Value| json!({"name": name, "money": money, "put": {"refused": {"admission": 3}}});
        json!({"policy": "worth", "money_by": "GPU h100 at 2.50 $/h, writes at 0.055 $/TB, room at 1.67 $/TB a month",
            "curve": {"half": 0.541, "now": 0.61, "twice": 0.778},
            "namespaces": [space("agents", money(1_234_567_890, 720_000.0)), space("a name far longer than there is room for", money(5, 0.5))]})
    }

    #[test]
    fn money_is_a_line_for_each_namespace_and_one_for_all_within_80_columns() {
        let lines = lines(&stats());
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(lines[1].contains("1,234,567,890") && lines[1].contains("720000.0") && lines[1].contains("500.00 $"));
        assert!(lines[1].contains(" 2,000 ") && lines[1].ends_with("0.03 $"), "{lines:#?}");
        assert!(lines[2].starts_with("a name far l ") && lines[2].contains("0.00035 $"));
        assert!(lines[3].starts_with("all") && lines[3].contains("720000.5"));
        assert_eq!(lines[8], "Blocks found by LRU: half the capacity 54 %, now 61 %, twice 78 %.");
    }

    #[test]
    fn where_nobody_names_tokens_nothing_is_made_up() {
        let stats = json!({"namespaces": [{"name": "n", "money": {"tokens_hit": 0, "tokens_missed": 0, "gpu_s_saved": 0.0}}], "curve": {"now": null}});
        let lines = lines(&stats);
        assert!(lines[1].contains('-') && lines[3].starts_with("Nobody has said"), "{lines:#?}");
        assert_eq!(lines.len(), 4);
    }

    /// One namespace is asked to pay for wear, one has not said its model, one has endurance to spare and one is durable.
    #[test]
    fn who_is_refused_and_why_stands_below_with_what_was_used() {
        let space = |name: &str, admission: &str, refused: u64| {
            json!({"name": name, "usage": {"served_dram_tokens": 600, "served_nvme_tokens": 400, "used_tokens": 225, "reported_requests": 3},
                "money": {"admission": admission, "pays_from_share": 0.314, "tokens_hit": 5, "tokens_missed": 7,
                    "refused_blocks": {"will_not_pay": refused, "over_budget": 0}}})
        };
        let stats = json!({"namespaces": [space("agents", "wear_price", 1_200), space("chats", "no_model", 0),
            space("notes", "endurance_to_spare", 0), space("kept", "durable", 0)], "curve": {"now": null}});
        let lines = lines(&stats);
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let at = lines.iter().position(|line| line.starts_with("Recorded over all lives")).unwrap();
        assert_eq!(lines[at], "Recorded over all lives: 900 tokens used of 4,000 served (stat --usage).");
        assert_eq!(lines[at + 1], "Admitted to agents: what pays for its wear, from 31 in 100 that come back.");
        assert_eq!(lines[at + 2], "  refused blocks: 1,200 will_not_pay, 0 over_budget");
        assert!(lines[at + 3].starts_with("Admitted to chats: all, since its fingerprint names no model"));
        assert_eq!(lines.len(), at + 4, "where all is admitted nothing is said: {lines:#?}");
        assert_eq!(json(&stats)["money"][0]["usage"]["used_tokens"], 225);
    }

    #[test]
    fn programs_get_accounts_with_their_names_and_reasons() {
        let json = json(&stats());
        assert_eq!(json["money"][0]["namespace"], "agents");
        assert_eq!(json["money"][0]["refused"]["admission"], 3);
        assert_eq!(json["curve"]["now"], 0.61);
    }
}
