//! The page of `forebay plan --html` as a browser shows it: nothing outside its drawing, no text on another, no wider than the window.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::Place;

/// Names of the browser; `FOREBAY_TEST_CHROMIUM` names another.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// What is wrong with a page, as a list; run in it.
const PROBE: &str = r#"<script>addEventListener("load",()=>{const wrong=[];let texts=0;
for(const svg of document.querySelectorAll("svg")){const box=svg.getBoundingClientRect();if(box.width<100||box.height<50)wrong.push("a drawing of "+box.width+" x "+box.height);
const seen=[];for(const text of svg.querySelectorAll("text")){texts++;const b=text.getBoundingClientRect();if(b.width==0)continue;
if(b.left<box.left-1||b.right>box.right+1||b.top<box.top-2||b.bottom>box.bottom+2)wrong.push("outside: "+text.textContent);
for(const [o,t] of seen)if(b.left<o.right-2&&o.left<b.right-2&&b.top<o.bottom-4&&o.top<b.bottom-4)wrong.push("over each other: "+t+" and "+text.textContent);
seen.push([b,text.textContent]);}}
if(document.documentElement.scrollWidth>innerWidth)wrong.push("wider than the window: "+document.documentElement.scrollWidth);
const out=document.createElement("script");out.type="application/json";out.id="probe";out.textContent=JSON.stringify({drawings:document.querySelectorAll("svg").length,texts,wrong});document.body.append(out);});</script>"#;

fn browser() -> Option<PathBuf> {
    let named = std::env::var_os("FOREBAY_TEST_CHROMIUM").map(PathBuf::from);
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        let mut all = std::env::split_paths(&path).flat_map(|dir| BROWSERS.map(|name| dir.join(name)));
        all.find(|program| program.is_file())
    };
    named.or_else(on_path)
}

/// The page with a probe in it, as the browser has it in the end.
fn looked_at(place: &Place, browser: &PathBuf, page: &str, width: u32) -> Value {
    let probed = page.replace("</head>", &format!("{PROBE}</head>"));
    let file = place.file("probed.html", probed.as_bytes());
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]);
    command.arg(format!("--window-size={width},900")).arg(format!("--user-data-dir={}", place.text("browser")));
    command.arg(format!("file://{file}")).stdin(Stdio::null()).env("HOME", place.path(""));
    let out = command.output().unwrap();
    let dom = String::from_utf8_lossy(&out.stdout);
    let found = dom.split_once(r#"id="probe">"#).and_then(|(_, rest)| rest.split_once("</script>"));
    let Some((told, _)) = found else { panic!("no probe: {dom}\n{}", String::from_utf8_lossy(&out.stderr)) };
    serde_json::from_str(told).unwrap()
}

#[test]
fn the_page_with_charts_is_whole_in_a_browser() {
    let place = Place::new();
    place.file("load.jsonl", support::coding_sessions(12).as_bytes());
    let base = ["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--draws", "2", "--html"];
    place.run(&[&base[..], &["page.html"]].concat()).ok();
    place.run(&[&base[..], &["sweep.html", "--sweep", "gpus=8..16", "--sweep", "nvme=1TB..64TB"]].concat()).ok();
    let text = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    for (name, drawings) in [("page.html", 5), ("sweep.html", 5)] {
        let page = text(name);
        // Nothing is fetched from anywhere.
        for word in ["src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(word), "{word} in {name}");
        }
        assert_eq!(page.matches("<svg").count(), drawings, "{name}");
        assert!(page.contains("What it rests on") && page.contains("NVIDIA"));
    }
    let Some(browser) = browser() else {
        eprintln!(
            "SKIP: no chromium here, so the page was not looked at; install it or name one in FOREBAY_TEST_CHROMIUM"
        );
        return;
    };
    for width in [1200, 600] {
        for (name, drawings) in [("page.html", 5), ("sweep.html", 5)] {
            let told = looked_at(&place, &browser, &text(name), width);
            assert_eq!(
                (&told["wrong"], told["drawings"].as_u64()),
                (&serde_json::json!([]), Some(drawings)),
                "{name} {width}"
            );
            assert!(told["texts"].as_u64() > Some(40), "{told}");
        }
    }
    // The probe finds what is wrong where something is.
    let broken = text("page.html").replacen("<text x=\"", "<text x=\"9", 1);
    assert_ne!(looked_at(&place, &browser, &broken, 1200)["wrong"], serde_json::json!([]));
}
