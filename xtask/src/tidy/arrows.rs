//! Which room may lean on which: the edges of `cargo metadata` against the table of the house.

use std::path::Path;

use serde_json::Value;

use crate::Stop;
use crate::run::cargo;

/// A room and the rooms it may lean on. Everyone may lean on `forebay-types`.
const HOUSE: [(&str, &[&str]); 13] = [
    ("forebay-types", &[]),
    ("forebay-format", &[]),
    ("forebay-wire", &[]),
    ("forebay-io", &[]),
    ("forebay-tokenomics", &[]),
    ("forebay-net", &["forebay-io"]),
    ("forebay-cluster", &[]),
    ("forebay-coord", &[]),
    ("forebay-store", &["forebay-format", "forebay-io", "forebay-tokenomics"]),
    ("forebay-client", &["forebay-cluster", "forebay-wire", "forebay-net", "forebay-io"]),
    (
        "forebay-node",
        &[
            "forebay-store",
            "forebay-cluster",
            "forebay-coord",
            "forebay-tokenomics",
            "forebay-format",
            "forebay-io",
            "forebay-wire",
            "forebay-net",
        ],
    ),
    ("forebay-py", &["forebay-client"]),
    ("forebay", &["forebay-node", "forebay-client", "forebay-tokenomics", "forebay-bench"]),
];

/// Rooms that prove things: they use what they like, and only those named may use them.
const PROOF: [(&str, &[&str]); 3] = [("forebay-bench", &["forebay"]), ("forebay-sim", &[]), ("xtask", &[])];

/// One dependency between two rooms that is not for tests only.
#[derive(Debug, PartialEq)]
struct Arrow {
    from: String,
    to: String,
}

pub(crate) fn findings(root: &Path) -> Result<Vec<String>, Stop> {
    let mut metadata = cargo(root, &["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let output = metadata.output().map_err(|e| Stop::Failed(format!("cargo metadata: {e}")))?;
    let value: Value = serde_json::from_slice(&output.stdout).map_err(|e| {
        Stop::Failed(format!("cargo metadata said no JSON ({e}): {}", String::from_utf8_lossy(&output.stderr).trim()))
    })?;
    let rooms = rooms(&value);
    let mut findings: Vec<String> = rooms.iter().filter_map(|room| unknown(room)).collect();
    findings.extend(arrows(&value, &rooms).iter().filter_map(judge));
    Ok(findings)
}

fn rooms(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter_map(|package| package["name"].as_str().map(str::to_owned)).collect()
}

fn arrows(metadata: &Value, rooms: &[String]) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let from = package["name"].as_str().unwrap_or_default();
        for edge in package["dependencies"].as_array().into_iter().flatten() {
            let to = edge["name"].as_str().unwrap_or_default();
            // What only tests lean on makes no arrow: a test may come in by any door.
            if edge["kind"].as_str() != Some("dev") && rooms.iter().any(|room| room == to) {
                arrows.push(Arrow { from: from.to_owned(), to: to.to_owned() });
            }
        }
    }
    arrows
}

fn unknown(room: &str) -> Option<String> {
    let known = HOUSE.iter().map(|(name, _)| name).chain(PROOF.iter().map(|(name, _)| name)).any(|name| *name == room);
    (!known).then(|| {
        format!(
            "{room} is a new room without a place in the house.\n  Write a page in docs/decisions/ on what it holds and may not know, add it to \
             docs/ARCHITECTURE.md, then give it a line in xtask/src/tidy/arrows.rs."
        )
    })
}

fn judge(arrow: &Arrow) -> Option<String> {
    let Arrow { from, to } = arrow;
    if let Some((_, users)) = PROOF.iter().find(|(name, _)| name == to) {
        let fine = users.contains(&from.as_str()) || PROOF.iter().any(|(name, _)| name == from);
        return (!fine).then(|| {
            format!(
                "{from} leans on {to}, which proves things and is leaned on by nobody in the product.\n  Move what you need from it down into the \
                 room it speaks of."
            )
        });
    }
    if to == "forebay-types" {
        return None;
    }
    let (_, allowed) = HOUSE.iter().find(|(name, _)| name == from)?;
    if allowed.contains(&to.as_str()) {
        return None;
    }
    let may = match *allowed {
        [] => "forebay-types only".to_owned(),
        allowed => format!("forebay-types, {}", allowed.join(", ")),
    };
    Some(format!(
        "{from} leans on {to}; it may lean on {may}.\n  Dependencies point down, so that each room can be tested without those above it. Often the wanted \
         thing is a word (move it to forebay-types), an argument (let forebay-node pass it in), or for tests only ([dev-dependencies]). If the arrow \
         is right and the house is wrong, write the page in docs/decisions/ first."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrow(from: &str, to: &str) -> Arrow {
        Arrow { from: from.into(), to: to.into() }
    }

    #[test]
    fn arrows_point_down() {
        for (from, to) in [
            ("forebay", "forebay-node"),
            ("forebay-node", "forebay-store"),
            ("forebay-store", "forebay-format"),
            ("forebay-coord", "forebay-types"),
            ("forebay-bench", "forebay-io"),
            ("forebay", "forebay-bench"),
        ] {
            assert_eq!(judge(&arrow(from, to)), None, "{from} -> {to}");
        }
        for (from, to) in [
            ("forebay-store", "forebay-net"),
            ("forebay-io", "forebay-format"),
            ("forebay-types", "forebay-io"),
            ("forebay-client", "forebay-store"),
            ("forebay-node", "forebay-bench"),
            ("forebay", "xtask"),
        ] {
            let said = judge(&arrow(from, to)).unwrap_or_default();
            assert!(said.contains(from) && said.contains(to) && said.contains("\n  "), "{from} -> {to}: {said:?}");
        }
    }

    #[test]
    fn edges_for_tests_make_no_arrow() {
        let metadata = serde_json::json!({"packages": [
            {"name": "a", "dependencies": [
                {"name": "b", "kind": "dev"}, {"name": "b", "kind": null}, {"name": "b", "kind": "build"}, {"name": "serde", "kind": null},
            ]},
            {"name": "b", "dependencies": []},
        ]});
        assert_eq!(arrows(&metadata, &rooms(&metadata)), [arrow("a", "b"), arrow("a", "b")]);
    }

    #[test]
    fn a_new_room_needs_a_place() {
        assert!(unknown("forebay-gateway").is_some_and(|said| said.contains("docs/decisions")));
        assert!(unknown("forebay-store").is_none());
    }
}
