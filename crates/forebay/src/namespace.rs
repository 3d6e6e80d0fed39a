//! `forebay namespace`: make, list, delete. The secrets of namespaces are never shown.

use std::time::Duration;

use forebay_client::ClientError;
use forebay_types::{Class, Fingerprint, Namespace, format_size, format_span_s};
use serde_json::{Map, Value, json};

use crate::cli::{ClassArg, NamespaceArgs, NamespaceDeed};
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};

/// Forgetting a namespace's blocks is written down on every drive before the answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs it.
pub(crate) fn run(args: &NamespaceArgs, settings: &Settings) -> Result<(), Stop> {
    let json = args.client.json;
    match &args.deed {
        NamespaceDeed::Create { name, class, quota, ttl, fingerprint } => {
            let fingerprint = fields(fingerprint).map_err(Stop::Misused)?;
            let class = match class {
                ClassArg::Cache => Class::Cache,
                ClassArg::Durable => Class::Durable,
            };
            let client = connect::client(settings, DEADLINE)?;
            let made = client.create_expiring_namespace(name, class, *quota, *ttl, &fingerprint)?;
            show(std::slice::from_ref(made.namespace()), json)
        }
        NamespaceDeed::List => {
            let client = connect::client(settings, DEADLINE)?;
            // Everybody has it; the catalogue learns of it when it is first opened.
            client.namespace("default")?;
            let mut all = client.list_namespaces()?;
            all.sort_by(|a, b| a.name.cmp(&b.name));
            show(&all, json)
        }
        NamespaceDeed::Delete { name } => {
            connect::client(settings, DEADLINE)?.delete_namespace(name).map_err(|e| match e {
                ClientError::NamespaceUnknown { name } => {
                    Stop::Failed(format!("there is no namespace {name:?} to delete; see `forebay namespace list`"))
                }
                e => e.into(),
            })?;
            if json {
                say::line(&json!({ "deleted": name }).to_string())
            } else {
                say::line(&format!("deleted {name}"))
            }
        }
    }
}

fn fields(texts: &[String]) -> Result<Fingerprint, String> {
    let mut fingerprint = Fingerprint::default();
    for text in texts {
        let Some((field, value)) = text.split_once('=') else {
            return Err(format!("--fingerprint takes FIELD=VALUE, as in model=llama-3.1-8b, and this is {text:?}"));
        };
        fingerprint.set(field.trim(), value.trim()).map_err(|e| e.to_string())?;
    }
    Ok(fingerprint)
}

fn show(namespaces: &[Namespace], json: bool) -> Result<(), Stop> {
    if json {
        return namespaces.iter().try_for_each(|namespace| say::line(&as_json(namespace).to_string()));
    }
    let mut table = say::table(&["namespace", "class", "quota", "ttl", "fingerprint"]);
    for namespace in namespaces {
        let quota = namespace.quota_bytes.map_or("-".to_owned(), format_size);
        let ttl = namespace.ttl_s.map_or("-".to_owned(), |ttl_s| format_span_s(u64::from(ttl_s)));
        let fields: Vec<String> =
            namespace.fingerprint.iter().map(|(field, value)| format!("{field}={value}")).collect();
        let fields = if fields.is_empty() { "-".to_owned() } else { fields.join(" ") };
        table.add_row([namespace.name.as_str(), namespace.class.word(), &quota, &ttl, &fields]);
    }
    say::show(&table)
}

fn as_json(namespace: &Namespace) -> Value {
    let fingerprint: Map<String, Value> =
        namespace.fingerprint.iter().map(|(field, value)| (field.to_owned(), Value::from(value))).collect();
    json!({
        "name": namespace.name,
        "id": namespace.id.0,
        "class": namespace.class.word(),
        "quota_bytes": namespace.quota_bytes,
        "ttl_s": namespace.ttl_s,
        "fingerprint": fingerprint,
    })
}
