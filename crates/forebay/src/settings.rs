//! Settings: TOML file < environment < flags. One list of keys, understood in one place; every complaint says where the value came from.
//!
//! A layer holds text. What a text means (a size, a path, an address) is decided when it is asked for, so that `--capacity 12`,
//! `FOREBAY_CAPACITY=12` and `capacity = "12"` are told the same thing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How a setting is written in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// A string.
    Text,
    /// A string or several; in the environment separated by `:`.
    List,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
}

/// Every setting there is. Its environment variable is its name in capitals behind `FOREBAY_`.
const KEYS: [(&str, Shape); 22] = [
    ("data", Shape::List),
    ("catalog", Shape::Text),
    ("capacity", Shape::Text),
    ("memory", Shape::Text),
    ("shards", Shape::Number),
    ("segment", Shape::Text),
    ("prewrite", Shape::Flag),
    ("io", Shape::Text),
    ("landing", Shape::Text),
    ("policy", Shape::Text),
    ("book", Shape::List),
    ("scrub", Shape::Text),
    ("endurance", Shape::Text),
    ("socket", Shape::Text),
    ("listen", Shape::Text),
    ("token_file", Shape::Text),
    ("metrics", Shape::Text),
    ("log", Shape::Text),
    ("log_level", Shape::Text),
    ("insecure_network", Shape::Flag),
    ("connect", Shape::Text),
    ("namespace", Shape::Text),
];

/// Variables that are ours and no settings: the file itself, and what tests are told.
const NO_SETTINGS: [&str; 2] = ["FOREBAY_CONFIG", "FOREBAY_WRITE_GOLDEN"];
/// Kubernetes gives every pod such variables for a service named `forebay`.
const FOREIGN: [&str; 2] = ["FOREBAY_SERVICE_", "FOREBAY_PORT"];

/// Settings from one place.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    values: BTreeMap<&'static str, Value>,
}

#[derive(Debug, Clone, PartialEq)]
struct Value {
    texts: Vec<String>,
    origin: String,
}

impl Layer {
    /// An empty layer for flags.
    pub(crate) fn flags() -> Self {
        Layer::default()
    }

    /// A flag with a value, if it was given.
    pub(crate) fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.values.insert(key, Value { texts: vec![value.to_owned()], origin: flag_name(key) });
        }
    }

    /// A flag that may be repeated.
    pub(crate) fn list(&mut self, key: &'static str, values: &[String]) {
        if !values.is_empty() {
            self.values.insert(key, Value { texts: values.to_vec(), origin: flag_name(key) });
        }
    }

    /// A flag without a value.
    pub(crate) fn flag(&mut self, key: &'static str, given: bool) {
        self.text(key, given.then_some("true"));
    }

    /// From a file's text.
    fn file(path: &Path, text: &str) -> Result<Self, String> {
        let shown = path.display();
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
            format!("the settings file {shown} is not TOML (line {line}): {}", e.message())
        })?;
        let mut layer = Layer::default();
        for (name, value) in &table {
            let Some((key, shape)) = KEYS.iter().find(|(key, _)| key == name) else {
                return Err(format!(
                    "the settings file {shown} has an unknown key {name:?}; {}",
                    nearest(name, |key| key.to_owned())
                ));
            };
            let Some(texts) = texts(*shape, value) else {
                return Err(format!("{key} in {shown} wants {}", wanted(*shape)));
            };
            layer.values.insert(key, Value { texts, origin: format!("{key} in {shown}") });
        }
        Ok(layer)
    }

    /// From environment variables; those that are not `FOREBAY_*` are somebody else's.
    fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Self, String> {
        let mut layer = Layer::default();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix("FOREBAY_") else { continue };
            if NO_SETTINGS.contains(&name.as_str()) || FOREIGN.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            let Some((key, shape)) = KEYS.iter().find(|(key, _)| variable_name(key) == name) else {
                return Err(format!(
                    "the environment has an unknown setting {name}; {}",
                    nearest(&rest.to_lowercase(), variable_name)
                ));
            };
            let Some(value) = value.to_str() else {
                return Err(format!("the value of {name} is not UTF-8; unset it or write it anew"));
            };
            let texts = match shape {
                Shape::List => value.split(':').filter(|text| !text.is_empty()).map(str::to_owned).collect(),
                _ => vec![value.to_owned()],
            };
            layer.values.insert(key, Value { texts, origin: name });
        }
        Ok(layer)
    }
}

fn texts(shape: Shape, value: &toml::Value) -> Option<Vec<String>> {
    Some(match (shape, value) {
        (Shape::Text | Shape::List, toml::Value::String(text)) => vec![text.clone()],
        (Shape::List, toml::Value::Array(values)) => {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<_>>()?
        }
        (Shape::Number, toml::Value::Integer(number)) => vec![number.to_string()],
        (Shape::Flag, toml::Value::Boolean(flag)) => vec![flag.to_string()],
        _ => return None,
    })
}

fn wanted(shape: Shape) -> &'static str {
    match shape {
        Shape::Text => "a string in quotes",
        Shape::List => "a string in quotes or a list of them, as in [\"/mnt/a\", \"/mnt/b\"]",
        Shape::Number => "a whole number without quotes",
        Shape::Flag => "true or false without quotes",
    }
}

fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn variable_name(key: &str) -> String {
    format!("FOREBAY_{}", key.to_uppercase())
}

fn nearest(name: &str, shown: impl Fn(&str) -> String) -> String {
    let best = KEYS.iter().map(|(key, _)| (distance(name, key), *key)).min();
    match best {
        Some((far, key)) if far <= key.len().max(name.len()) / 2 => format!("did you mean {}?", shown(key)),
        Some((_, key)) => {
            let all: Vec<String> = KEYS.iter().map(|(key, _)| shown(key)).collect();
            format!("the nearest one is {}; there are {}", shown(key), all.join(", "))
        }
        None => String::new(),
    }
}

/// Edits (insert, delete, change) between two names; both are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// All layers, the later over the earlier.
#[derive(Debug)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, Value>,
}

impl Settings {
    /// Reads the file (`config`, or the one FOREBAY_CONFIG names), then the environment, then lays the flags over them.
    pub(crate) fn load(
        config: Option<&Path>,
        variables: impl Iterator<Item = (OsString, OsString)>,
        flags: Layer,
    ) -> Result<Self, String> {
        let variables: Vec<_> = variables.collect();
        let named = variables.iter().find(|(name, _)| name == "FOREBAY_CONFIG").map(|(_, value)| PathBuf::from(value));
        let path = config.map(Path::to_owned).or(named.filter(|path| !path.as_os_str().is_empty()));
        let mut values = BTreeMap::new();
        if let Some(path) = path {
            let text = std::fs::read_to_string(&path).map_err(|e| {
                format!("the settings file {} cannot be read: {e}; see --config and FOREBAY_CONFIG", path.display())
            })?;
            values.extend(Layer::file(&path, &text)?.values);
        }
        values.extend(Layer::environment(variables.into_iter())?.values);
        // A script whose variable is not set; an empty variable of the environment, though, is as good as none.
        if let Some(empty) = flags.values.values().find(|value| value.texts.iter().any(String::is_empty)) {
            return Err(format!("{}: it is empty; give it a value, or leave it out", empty.origin));
        }
        values.extend(flags.values);
        Ok(Settings { values })
    }

    /// A text, as it is.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        debug_assert!(KEYS.iter().any(|(known, _)| *known == key), "{key} is no setting");
        self.values.get(key)?.texts.last().map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Where a setting came from, for a complaint about it.
    pub(crate) fn origin<'a>(&'a self, key: &'a str) -> &'a str {
        self.values.get(key).map_or(key, |value| &value.origin)
    }

    /// A path.
    pub(crate) fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// Several paths; empty if not set.
    pub(crate) fn paths(&self, key: &str) -> Vec<PathBuf> {
        self.values.get(key).map_or(Vec::new(), |value| value.texts.iter().map(PathBuf::from).collect())
    }

    /// A size in bytes.
    pub(crate) fn size(&self, key: &str) -> Result<Option<u64>, String> {
        self.parsed(key, |text| forebay_types::parse_size(text).map_err(|e| e.to_string()))
    }

    /// A whole number inside `bounds`.
    pub(crate) fn number(&self, key: &str, bounds: std::ops::RangeInclusive<u32>) -> Result<Option<u32>, String> {
        self.parsed(key, |text| match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(number),
            _ => Err(format!("{text:?} is not a whole number from {} to {}", bounds.start(), bounds.end())),
        })
    }

    /// A flag; false if not set.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, String> {
        let parsed = self.parsed(key, |text| match text {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        })?;
        Ok(parsed.unwrap_or(false))
    }

    fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        self.text(key).map(|text| parse(text).map_err(|why| format!("{}: {why}", self.origin(key)))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    fn loaded(file: &str, variables: &[(&str, &str)], flags: Layer) -> Result<Settings, String> {
        let path = std::env::temp_dir().join(format!("forebay-settings-{}-{:p}.toml", std::process::id(), &file));
        std::fs::write(&path, file).unwrap();
        let settings = Settings::load(Some(&path), environment(variables).into_iter(), flags);
        std::fs::remove_file(&path).unwrap();
        settings
    }

    #[test]
    fn flags_cover_the_environment_and_it_covers_the_file() {
        let mut flags = Layer::flags();
        flags.text("memory", Some("3GiB"));
        let file = "capacity = \"1GiB\"\nmemory = \"1GiB\"\nshards = 4\nprewrite = true\ndata = [\"/a\", \"/b\"]\n";
        let settings =
            loaded(file, &[("FOREBAY_MEMORY", "2GiB"), ("FOREBAY_SHARDS", "2"), ("HOME", "/")], flags).unwrap();
        assert_eq!(settings.size("capacity"), Ok(Some(1 << 30)));
        assert_eq!(settings.number("shards", 1..=8), Ok(Some(2)));
        assert_eq!(settings.size("memory"), Ok(Some(3 << 30)));
        assert_eq!(settings.flag("prewrite"), Ok(true));
        assert_eq!(settings.paths("data"), [Path::new("/a"), Path::new("/b")]);
        assert_eq!(settings.text("socket"), None);
        assert_eq!(settings.size("segment"), Ok(None));
    }

    #[test]
    fn an_unknown_key_is_told_the_nearest() {
        let said = loaded("capasity = \"1GiB\"", &[], Layer::flags()).unwrap_err();
        assert!(said.contains("\"capasity\"") && said.contains("did you mean capacity?"), "{said}");
        let said = loaded("", &[("FOREBAY_TOKENFILE", "x")], Layer::flags()).unwrap_err();
        assert!(said.contains("FOREBAY_TOKENFILE") && said.contains("did you mean FOREBAY_TOKEN_FILE?"), "{said}");
        let said = loaded("zzzzzzzzzzzzzzzzzzzzzz = 1", &[], Layer::flags()).unwrap_err();
        assert!(said.contains("the nearest one is"), "{said}");
    }

    #[test]
    fn a_service_named_forebay_in_kubernetes_is_no_setting() {
        let variables =
            [("FOREBAY_SERVICE_HOST", "10.0.0.1"), ("FOREBAY_PORT", "tcp://10.0.0.1:7000"), ("FOREBAY_CONFIG", "")];
        assert!(loaded("", &variables, Layer::flags()).is_ok());
    }

    #[test]
    fn a_bad_value_says_where_it_came_from() {
        let settings = loaded("capacity = \"12\"", &[("FOREBAY_MEMORY", "many")], Layer::flags()).unwrap();
        assert!(settings.size("capacity").unwrap_err().starts_with("capacity in "));
        assert!(settings.size("memory").unwrap_err().starts_with("FOREBAY_MEMORY: \"many\" is not a size"));
        let said = loaded("shards = \"2\"", &[], Layer::flags()).unwrap_err();
        assert!(said.contains("a whole number without quotes"), "{said}");
        let said = loaded("a = \"1\"\n= nonsense", &[], Layer::flags()).unwrap_err();
        assert!(said.contains("is not TOML (line 2)"), "{said}");
    }

    #[test]
    fn distances_are_edits() {
        assert_eq!(distance("memory", "memory"), 0);
        assert_eq!(distance("memroy", "memory"), 2);
        assert_eq!(distance("", "io"), 2);
    }
}
