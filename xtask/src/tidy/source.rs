//! The Rust files of the house, and just enough reading of them to find functions: strings and comments blanked, braces matched.

use std::path::Path;

use crate::Stop;

/// One file.
pub(crate) struct Source {
    /// From the workspace's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// One function of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) lines: usize,
}

/// Every `.rs` file of the crates and of xtask, in the order of their paths.
pub(crate) fn all(root: &Path) -> Result<Vec<Source>, Stop> {
    let mut sources = Vec::new();
    for top in ["crates", "xtask"] {
        walk(root, &root.join(top), &mut sources)?;
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn walk(root: &Path, folder: &Path, into: &mut Vec<Source>) -> Result<(), Stop> {
    let failed = |e: std::io::Error| Stop::Failed(format!("{}: {e}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "proptest-regressions") {
                walk(root, &path, into)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).map_err(failed)?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            into.push(Source { path, text });
        }
    }
    Ok(())
}

impl Source {
    /// Lines of the file without its inline tests.
    pub(crate) fn lines(&self) -> usize {
        let mask = mask(&self.text);
        let Some(start) = mask.find("#[cfg(test)]\nmod ") else { return self.text.lines().count() };
        let tests = body(&mask, start).map_or(0, |end| mask[start..end].lines().count());
        self.text.lines().count() - tests
    }

    /// Functions with a body, in order, inline tests included.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let mask = mask(&self.text);
        let mut functions = Vec::new();
        for (at, _) in mask.match_indices("fn ") {
            let before = mask[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let name: String = mask[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if name.is_empty() {
                continue; // A type: `fn (u8)`.
            }
            if let Some(end) = body(&mask, at) {
                functions.push(Function { name, lines: mask[at..end].lines().count() });
            }
        }
        functions
    }
}

/// Where the first block after `at` ends, or `None` if a `;` comes before any block.
fn body(mask: &str, at: usize) -> Option<usize> {
    let (mut braces, mut others) = (0usize, 0usize);
    for (i, byte) in mask.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.saturating_sub(1),
            b'{' => braces += 1,
            b';' if braces == 0 && others == 0 => return None,
            b'}' if braces == 1 => return Some(i + 1),
            b'}' => braces = braces.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// The text with the insides of strings, characters and comments made blank; same length in bytes, same lines.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'/' if bytes[i..].starts_with(b"//") => find(bytes, i, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[i..].starts_with(b"/*") => comment_end(bytes, i),
            b'r' if is_raw(bytes, i) => raw_end(bytes, i),
            b'"' => string_end(bytes, i),
            b'\'' => char_end(bytes, i),
            _ => i,
        };
        if end == i {
            out.push(if bytes[i].is_ascii() { bytes[i] } else { b'x' });
            i += 1;
        } else {
            out.extend(bytes[i..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            i = end;
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
}

fn comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    i
}

fn is_raw(bytes: &[u8], at: usize) -> bool {
    let word_before =
        at > 0 && (bytes[at - 1].is_ascii_alphanumeric() && bytes[at - 1] != b'b' || bytes[at - 1] == b'_');
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    !word_before && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|b| **b == b'#').count();
    let closing = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    find(bytes, start + hashes + 2, &closing).map_or(bytes.len(), |at| at + closing.len())
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

/// A character's end, or `start` for a lifetime.
fn char_end(bytes: &[u8], start: usize) -> usize {
    if bytes.get(start + 1) == Some(&b'\\') {
        return find(bytes, start + 3, b"'").map_or(bytes.len(), |at| at + 1);
    }
    let close = bytes[start + 1..].iter().take(5).position(|b| *b == b'\'');
    match close {
        // 'a' and multi-byte characters, but not <'a, 'b>: there the quote is followed by a letter that goes on.
        Some(at) if at == 1 || (at > 1 && !bytes[start + 1].is_ascii()) => start + 2 + at,
        _ => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions(text: &str) -> Vec<(String, usize)> {
        let source = Source { path: String::new(), text: text.into() };
        source.functions().into_iter().map(|f| (f.name, f.lines)).collect()
    }

    #[test]
    fn functions_are_found_through_strings_comments_and_lifetimes() {
        let text = "fn a() {\n  let s = \"}\"; // }\n  let c = '}'; let d = '\\'';\n}\n\
                    fn b<'a>(x: &'a str, f: fn(u8) -> u8) -> [u8; 2] {\n  r#\"}\"#; /* } */ [1, 2]\n}\n\
                    trait T { fn c(&self); fn d(&self) {\n\n} }\n";
        let found = functions(text);
        assert_eq!(found, [("a".into(), 4), ("b".into(), 3), ("d".into(), 3)]);
    }

    #[test]
    fn inline_tests_are_not_counted_as_the_file() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n";
        let source = Source { path: String::new(), text: text.into() };
        assert_eq!(source.lines(), 2);
        assert_eq!(source.functions().len(), 2);
    }
}
