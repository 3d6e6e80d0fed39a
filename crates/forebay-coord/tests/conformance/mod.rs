//! What every coordinator must do. A backend passes its own way of opening and reopening one catalogue.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::sync::Arc;

use forebay_coord::{CoordError, Coordinator, DEFAULT_NAMESPACE, MemberRow};
use forebay_types::{Class, Epoch, Fingerprint, NamespaceId, ShardId, Tenant};

const ME: Tenant = Tenant(1000);
const YOU: Tenant = Tenant(1001);

pub(crate) fn fingerprint(fields: &[(&str, &str)]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    for (field, value) in fields {
        fingerprint.set(field, value).unwrap();
    }
    fingerprint
}

/// Runs the suite. Each case gets a catalogue of its own from `fresh`; calling what that returns closes nothing but opens the same catalogue again
/// after the last handle on it is gone.
pub(crate) fn suite<O: FnMut() -> Arc<dyn Coordinator>>(mut fresh: impl FnMut() -> O) {
    for case in [
        namespaces_come_back,
        a_namespace_is_made_once,
        tenants_do_not_see_each_other,
        numbers_are_never_given_twice,
        bad_requests_are_refused,
        the_default_namespace_is_made_on_demand,
        the_epoch_rises_only_when_members_change,
        each_life_has_a_number,
        many_threads_make_one,
    ] {
        case(&mut fresh());
    }
}

type Open<'a> = &'a mut dyn FnMut() -> Arc<dyn Coordinator>;

fn namespaces_come_back(open: Open<'_>) {
    let coord = open();
    let print = fingerprint(&[("model", "llama"), ("dtype", "fp8"), ("hash_seed", "0")]);
    let made = coord.create(ME, "kv", Class::Durable, Some(1 << 30), None, &print).unwrap();
    assert!(made.id.0 != 0 && made.secret.0 != [0; 32]);
    let other = coord.create(ME, "a/b:c", Class::Cache, None, None, &Fingerprint::default()).unwrap();
    assert_ne!(made.secret, other.secret);
    drop(coord);
    let coord = open();
    assert_eq!(coord.get(ME, "kv").unwrap(), Some(made.clone()));
    assert_eq!(coord.by_id(made.id).unwrap(), Some(made.clone()));
    assert_eq!(coord.list(ME).unwrap(), [other.clone(), made.clone()]);
    assert_eq!(coord.all().unwrap(), [made.clone(), other]);
    assert_eq!(coord.get(ME, "k").unwrap(), None);
    assert_eq!(coord.by_id(NamespaceId(0)).unwrap(), None);
    assert_eq!(coord.expect(ME, "kv", &Fingerprint::default()).unwrap(), made, "an empty fingerprint expects nothing");
    assert_eq!(coord.expect(ME, "kv", &print).unwrap(), made);
}

fn a_namespace_is_made_once(open: Open<'_>) {
    let coord = open();
    let print = fingerprint(&[("model", "a"), ("dtype", "fp8")]);
    let made = coord.create(ME, "kv", Class::Cache, Some(5), None, &print).unwrap();
    assert_eq!(
        coord.create(ME, "kv", Class::Cache, Some(5), None, &print).unwrap(),
        made,
        "the same again is the same"
    );
    let other = fingerprint(&[("model", "b"), ("dtype", "fp16")]);
    for error in [
        coord.create(ME, "kv", Class::Cache, Some(5), None, &other).unwrap_err(),
        coord.expect(ME, "kv", &other).unwrap_err(),
    ] {
        let text = error.to_string();
        let field = "has another fingerprint: its field model is \"a\", and \"b\" is asked for";
        assert!(text.contains("\"kv\"") && text.contains(field), "{text}");
    }
    let text = coord.create(ME, "kv", Class::Durable, Some(5), None, &print).unwrap_err().to_string();
    assert!(text.contains("exists with class cache, and durable is asked for"), "{text}");
    let text = coord.create(ME, "kv", Class::Cache, Some(5), Some(60), &print).unwrap_err().to_string();
    assert!(text.contains("no time to live") && text.contains("60 s"), "{text}");
    let brief = coord.create(ME, "brief", Class::Durable, None, Some(3600), &print).unwrap();
    assert_eq!(coord.get(ME, "brief").unwrap().map(|ns| ns.ttl_s), Some(Some(3600)));
    assert_eq!(coord.delete(ME, "brief").unwrap(), brief);
    assert!(matches!(coord.create(ME, "none", Class::Cache, None, Some(0), &print), Err(CoordError::TtlZero)));
    let text = coord.create(ME, "kv", Class::Cache, None, None, &print).unwrap_err().to_string();
    assert!(text.contains("quota of 5 B") && text.contains("no quota is asked for"), "{text}");
    assert_eq!(coord.all().unwrap(), [made]);
}

fn tenants_do_not_see_each_other(open: Open<'_>) {
    let coord = open();
    let mine = coord.create(ME, "kv", Class::Cache, None, None, &Fingerprint::default()).unwrap();
    assert_eq!(coord.get(YOU, "kv").unwrap(), None);
    assert!(matches!(coord.delete(YOU, "kv"), Err(CoordError::Unknown { .. })));
    let yours = coord.create(YOU, "kv", Class::Durable, None, None, &Fingerprint::default()).unwrap();
    assert!(mine.id != yours.id && mine.secret != yours.secret);
    assert_eq!(coord.list(YOU).unwrap(), std::slice::from_ref(&yours));
    coord.delete(YOU, "kv").unwrap();
    assert_eq!(coord.list(ME).unwrap(), [mine]);
}

fn numbers_are_never_given_twice(open: Open<'_>) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let coord = open();
        for _ in 0..2 {
            let made = coord.create(ME, "kv", Class::Cache, None, None, &Fingerprint::default()).unwrap();
            assert!(!seen.contains(&made.id) && !seen.contains(&NamespaceId(0)), "{} again", made.id.0);
            seen.push(made.id);
            assert_eq!(coord.delete(ME, "kv").unwrap(), made);
            assert_eq!(coord.get(ME, "kv").unwrap(), None);
            assert_eq!(coord.by_id(made.id).unwrap(), None);
        }
    }
    let far = NamespaceId(seen[5].0 + 1000);
    open().reserve_ids(far).unwrap();
    let coord = open();
    coord.reserve_ids(NamespaceId(1)).unwrap();
    let made = coord.create(ME, "kv", Class::Cache, None, None, &Fingerprint::default()).unwrap();
    assert!(made.id > far);
    coord.reserve_ids(NamespaceId(u32::MAX)).unwrap();
    let full = coord.create(ME, "other", Class::Cache, None, None, &Fingerprint::default());
    assert!(matches!(full, Err(CoordError::Full(_))));
}

fn bad_requests_are_refused(open: Open<'_>) {
    let coord = open();
    let none = Fingerprint::default();
    for name in ["", "a b", "a\n", &"n".repeat(65), "ü"] {
        assert!(
            matches!(coord.create(ME, name, Class::Cache, None, None, &none), Err(CoordError::Invalid(_))),
            "{name:?}"
        );
    }
    assert!(matches!(coord.create(ME, "kv", Class::Cache, Some(0), None, &none), Err(CoordError::QuotaZero)));
    let text = coord.expect(ME, "kv", &none).unwrap_err().to_string();
    assert!(text.contains("there is no namespace \"kv\"") && text.contains("forebay namespace create"), "{text}");
    assert!(matches!(coord.delete(ME, "kv"), Err(CoordError::Unknown { .. })));
    assert_eq!(coord.all().unwrap(), []);
}

fn the_default_namespace_is_made_on_demand(open: Open<'_>) {
    let coord = open();
    assert_eq!(coord.all().unwrap(), []);
    let made = coord.default_namespace(ME).unwrap();
    assert_eq!((made.name.as_str(), made.class, made.quota_bytes), (DEFAULT_NAMESPACE, Class::Cache, None));
    assert_eq!(coord.default_namespace(ME).unwrap(), made);
    assert_ne!(coord.default_namespace(YOU).unwrap().id, made.id);
    coord.delete(ME, DEFAULT_NAMESPACE).unwrap();
    let special = coord.create(ME, DEFAULT_NAMESPACE, Class::Durable, Some(7), None, &Fingerprint::default()).unwrap();
    assert_eq!(coord.default_namespace(ME).unwrap(), special, "whatever the tenant made of it");
}

fn the_epoch_rises_only_when_members_change(open: Open<'_>) {
    let row = |byte, weight_mib| MemberRow { shard: ShardId([byte; 16]), weight_mib };
    let coord = open();
    let before = coord.members().unwrap();
    assert_eq!(before.members, []);
    assert_eq!(coord.set_members(&[]).unwrap(), before.epoch);
    let first = coord.set_members(&[row(2, 10), row(1, 20)]).unwrap();
    assert_eq!(first, Epoch(before.epoch.0 + 1));
    assert_eq!(coord.set_members(&[row(1, 20), row(2, 10)]).unwrap(), first, "another order is no change");
    drop(coord);
    let coord = open();
    let found = coord.members().unwrap();
    assert_eq!((found.epoch, &found.members[..]), (first, &[row(1, 20), row(2, 10)][..]));
    assert_eq!(coord.set_members(&[row(1, 20), row(2, 11)]).unwrap(), Epoch(first.0 + 1), "a weight is a change");
    assert_eq!(coord.set_members(&[row(2, 11)]).unwrap(), Epoch(first.0 + 2));
    assert_eq!(coord.members().unwrap().members, [row(2, 11)]);
    assert!(matches!(coord.set_members(&[row(3, 1), row(3, 2)]), Err(CoordError::Members(_))));
    assert!(matches!(coord.set_members(&[row(3, 1); 4097]), Err(CoordError::Members(_))));
    assert_eq!(coord.members().unwrap().epoch, Epoch(first.0 + 2));
}

fn each_life_has_a_number(open: Open<'_>) {
    let first = open().incarnation();
    let second = open().incarnation();
    assert!(second > first);
}

fn many_threads_make_one(open: Open<'_>) {
    let coord = open();
    let made: Vec<_> = std::thread::scope(|scope| {
        let make = || coord.create(ME, "kv", Class::Cache, None, None, &Fingerprint::default()).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(made.iter().all(|ns| *ns == made[0]));
    assert_eq!(coord.all().unwrap().len(), 1);
}
