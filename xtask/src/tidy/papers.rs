//! Bytes move with their paper: a format's source, its golden files and the document that draws it are accepted together.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::Stop;

/// A format: where its bytes are made, what shows them, what tells of them.
struct Paper {
    name: &'static str,
    document: &'static str,
    sources: &'static [&'static str],
    golden: &'static [&'static str],
    /// File and constant that number the format; the document must speak of that version.
    version: Option<(&'static str, &'static str)>,
}

const PAPERS: [Paper; 4] = [
    Paper {
        name: "disk",
        document: "docs/disk-format.md",
        sources: &[
            "crates/forebay-format/src",
            "crates/forebay-types/src/descriptor.rs",
            "crates/forebay-types/src/check.rs",
        ],
        golden: &["crates/forebay-format/tests/golden"],
        version: Some(("crates/forebay-format/src/superblock.rs", "VERSION")),
    },
    Paper {
        name: "usage",
        document: "docs/usage-log.md",
        sources: &["crates/forebay-format/src/usage.rs", "crates/forebay-types/src/usage.rs"],
        golden: &["crates/forebay-format/tests/golden/usage_log.bin"],
        version: Some(("crates/forebay-format/src/usage.rs", "USAGE_VERSION")),
    },
    Paper {
        name: "wire",
        document: "docs/wire-format.md",
        sources: &["crates/forebay-wire/src"],
        golden: &["crates/forebay-wire/tests/golden"],
        version: Some(("crates/forebay-wire/src/message.rs", "WIRE_VERSION")),
    },
    Paper {
        name: "placement",
        document: "docs/placement.md",
        sources: &["crates/forebay-cluster/src"],
        golden: &["crates/forebay-cluster/tests/golden"],
        version: None,
    },
];

pub(crate) fn findings(root: &Path, accepted: &Value) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for paper in &PAPERS {
        let today = digests(root, paper)?;
        findings.extend(version_finding(root, paper)?);
        if !root.join(paper.document).is_file() {
            findings
                .push(format!("{} is missing.\n  Draw the {} format there, to the byte.", paper.document, paper.name));
        } else if today != accepted[paper.name] {
            findings.push(change_finding(paper, &today, &accepted[paper.name]));
        }
    }
    Ok(findings)
}

/// Today's digests, or why they may not be accepted.
pub(crate) fn accepted(root: &Path, before: &Value, bytes_unchanged: bool) -> Result<Value, Stop> {
    let mut papers = Map::new();
    for paper in &PAPERS {
        let today = digests(root, paper)?;
        let old = &before[paper.name];
        let document_moved = today["document"] != old["document"];
        let golden_moved = today["golden"] != old["golden"];
        if !old.is_null() && golden_moved && !document_moved {
            return Err(Stop::Failed(change_finding(paper, &today, old)));
        }
        if !old.is_null() && today["source"] != old["source"] && !document_moved && !bytes_unchanged {
            return Err(Stop::Failed(format!(
                "{}\n  Its golden files are the same: if the bytes are too, say so: cargo xtask tidy --accept --bytes-unchanged.",
                change_finding(paper, &today, old)
            )));
        }
        papers.insert(paper.name.to_owned(), today);
    }
    Ok(Value::Object(papers))
}

fn change_finding(paper: &Paper, today: &Value, accepted: &Value) -> String {
    let moved: Vec<&str> =
        ["source", "golden", "document"].into_iter().filter(|part| today[part] != accepted[part]).collect();
    format!(
        "the {} format changed ({}) since it was last accepted.\n  Read {} beside the change: it must draw these bytes, and a change of bytes needs a new \
         version or feature bit and new golden files. Then: cargo xtask tidy --accept, in the same commit.",
        paper.name,
        moved.join(", "),
        paper.document
    )
}

fn version_finding(root: &Path, paper: &Paper) -> Result<Option<String>, Stop> {
    let Some((file, constant)) = paper.version else { return Ok(None) };
    let source = read(&root.join(file))?;
    let Some(version) = number_of(&source, constant) else {
        return Ok(Some(format!(
            "{file} has no `const {constant}` with a number.\n  Tell xtask/src/tidy/papers.rs where it went."
        )));
    };
    let document = read(&root.join(paper.document)).unwrap_or_default();
    let wanted = format!("version {version}");
    let told = document.to_lowercase().contains(&wanted);
    Ok((!told).then(|| {
        format!(
            "{} does not speak of {wanted}, which {file} writes.\n  Add what changed in that version.",
            paper.document
        )
    }))
}

fn number_of(source: &str, constant: &str) -> Option<u64> {
    let line = source.lines().find(|line| line.contains("const ") && line.contains(&format!(" {constant}:")))?;
    line.split('=').nth(1)?.trim().trim_end_matches(';').parse().ok()
}

fn digests(root: &Path, paper: &Paper) -> Result<Value, Stop> {
    Ok(json!({
        "document": digest(root, &[paper.document])?,
        "golden": digest(root, paper.golden)?,
        "source": digest(root, paper.sources)?,
    }))
}

/// One digest over files and folders, names included; what is not there counts as nothing.
fn digest(root: &Path, places: &[&str]) -> Result<String, Stop> {
    let mut files = Vec::new();
    places.iter().try_for_each(|place| list(&root.join(place), &mut files))?;
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let bytes = std::fs::read(&file).map_err(|e| Stop::Failed(format!("{}: {e}", file.display())))?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        hasher.update(name.as_bytes()).update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

fn list(place: &Path, into: &mut Vec<PathBuf>) -> Result<(), Stop> {
    let failed = |e: std::io::Error| Stop::Failed(format!("{}: {e}", place.display()));
    if place.is_file() {
        into.push(place.to_owned());
    } else if place.is_dir() {
        for entry in std::fs::read_dir(place).map_err(failed)? {
            list(&entry.map_err(failed)?.path(), into)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Stop> {
    std::fs::read_to_string(path).map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_its_constant() {
        assert_eq!(number_of("/// x\npub const WIRE_VERSION: u16 = 3;\n", "WIRE_VERSION"), Some(3));
        assert_eq!(number_of("pub const OTHER: u16 = 3;\n", "WIRE_VERSION"), None);
    }

    #[test]
    fn a_golden_file_that_moves_without_its_document_is_not_accepted() {
        let root = std::env::temp_dir().join(format!("forebay-papers-{}", std::process::id()));
        for paper in &PAPERS {
            for place in paper.sources.iter().chain(paper.golden) {
                let folder = root.join(place.trim_end_matches(".rs"));
                std::fs::create_dir_all(&folder).unwrap();
            }
            std::fs::create_dir_all(root.join("docs")).unwrap();
            std::fs::write(root.join(paper.document), "version 1").unwrap();
        }
        let before = accepted(&root, &Value::Null, false).ok().unwrap();
        let golden = root.join("crates/forebay-wire/tests/golden/hello");
        std::fs::write(golden, [1]).unwrap();
        assert!(accepted(&root, &before, true).is_err());
        std::fs::write(root.join("docs/wire-format.md"), "version 1, and what is new").unwrap();
        let after = accepted(&root, &before, false).ok().unwrap();
        std::fs::write(root.join("crates/forebay-wire/src/a.rs"), "// moved").unwrap();
        assert!(accepted(&root, &after, false).is_err());
        assert!(accepted(&root, &after, true).is_ok());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
