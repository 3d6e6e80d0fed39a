//! `--measured`: what this machine's store was measured to do, in the place of the hardware book's drive.
//!
//! It becomes a book like any other: what an answer rests on is printed with the measurement as its source, and a card of the forecast holds it.

use std::path::Path;

use serde_json::Value;

use crate::stop::Stop;

/// Largest file, in bytes: a card with all its samples has a few tens of thousands.
const BYTES_MAX: u64 = 4 << 20;
/// Rows that are looked for: reads of one drive, of DRAM by one shard, in GB/s; and the first byte, in microseconds.
const DRIVE: &str = "nvme_1m_qd16";
const MEMORY: &str = "dram_1m";
const FIRST_BYTE: &str = "nvme_64k_qd1_p50_us";

/// The book of a measurement, for a drive and a storage of other books.
pub(super) fn book(path: &Path, drive: &str, storage: &str) -> Result<(String, String), Stop> {
    let name = path.display().to_string();
    let failed = |why: &str| Stop::Failed(format!("--measured {name}: {why}"));
    let bytes = std::fs::metadata(path).map_err(|e| failed(&format!("it cannot be read: {e}")))?.len();
    if bytes > BYTES_MAX {
        return Err(failed(&format!("it has {bytes} bytes, and a card has {BYTES_MAX} at most")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(&format!("it cannot be read: {e}")))?;
    let told = of(&text, drive, storage).map_err(|why| failed(&why))?;
    Ok((name, told))
}

fn of(text: &str, drive: &str, storage: &str) -> Result<String, String> {
    let make = "write one with `cargo xtask bench limits --card FILE`";
    let card: Value = serde_json::from_str(text).map_err(|e| format!("it is no JSON ({e}); {make}"))?;
    // A card, or the line of `--json` alone.
    let result = if card["result"].is_object() { &card["result"] } else { &card };
    let rows = result["rows"].as_array().ok_or_else(|| format!("it has no rows; {make}"))?;
    let row = |path: &str| {
        let row = rows.iter().find(|row| row["path"] == path);
        let ours = row.and_then(|row| row["ours"].as_f64()).filter(|ours| ours.is_finite() && *ours > 0.0);
        ours.ok_or_else(|| format!("it has no row {path} with a measured figure; {make}"))
    };
    let (drive_gb, memory_gb, first_us) = (row(DRIVE)?, row(MEMORY)?, row(FIRST_BYTE)?);
    let date = card["date"]
        .as_str()
        .and_then(|date| date.get(..10))
        .filter(|date| date.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
    let measured = |row: &str| {
        format!("measured{}: {row} of bench limits", date.map(|date| format!(" {date}")).unwrap_or_default())
    };
    let first = measured(FIRST_BYTE);
    let (read, memory) = (measured(DRIVE), measured(MEMORY));
    // Names are keys in quotes: a book may have any.
    let (drive, storage) = (Value::from(drive), Value::from(storage));
    Ok(format!(
        "[drives.{drive}]\nread = \"{drive_gb}GB/s\"\nread_source = \"{read}\"\n\n\
         [storage.{storage}]\nload_efficiency = 1.0\nload_efficiency_source = \"{read}: what loads reached\"\n\
         memory_read_per_drive = \"{memory_gb}GB/s\"\nmemory_read_per_drive_source = \"{memory}, by one shard\"\n\
         first_byte_ms = {:?}\nfirst_byte_ms_source = \"{first}\"\n",
        first_us / 1000.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_tokenomics::book::Book;

    fn card(rows: &str) -> String {
        format!(r#"{{"date": "2026-11-26T10:56:14Z", "result": {{"rows": [{rows}]}}}}"#)
    }

    const ROWS: &str = r#"{"path": "nvme_1m_qd16", "ours": 1.25}, {"path": "dram_1m", "ours": 6.5}, {"path": "nvme_64k_qd1_p50_us", "ours": 250.0}"#;

    #[test]
    fn a_card_is_a_book_with_the_measurement_as_its_source() {
        let told = of(&card(ROWS), "nvme", "default").unwrap();
        let book = Book::with(&[("card", &told)]).unwrap();
        let (drive, storage) = (&book.drives["nvme"], &book.storage["default"]);
        assert_eq!((drive.read_bandwidth, storage.load_efficiency, storage.first_byte_ms), (1.25e9, 1.0, 0.25));
        assert_eq!(storage.memory_bandwidth_per_drive, 6.5e9);
        let source = book.figures("drives.nvme.read").next().unwrap().source.clone();
        assert!(source.contains("measured 2026-11-26"), "{source}");
        // The line of --json is as good.
        assert!(of(&format!(r#"{{"rows": [{ROWS}]}}"#), "nvme", "default").is_ok());
    }

    #[test]
    fn what_is_no_measurement_is_told_and_what_to_do() {
        for (text, said) in [
            ("", "no JSON"),
            ("{}", "no rows"),
            (&card(r#"{"path": "dram_1m", "ours": 6.5}"#), "no row nvme_1m_qd16"),
            (&card(&ROWS.replace("1.25", "-1")), "no row nvme_1m_qd16"),
        ] {
            let why = of(text, "nvme", "default").unwrap_err();
            assert!(why.contains(said) && why.contains("bench limits --card"), "{why}");
        }
    }
}
