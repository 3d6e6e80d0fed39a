//! A drive that is a raw block device, and the catalogue that such a node needs elsewhere. Nothing is written to a device.

use std::path::{Path, PathBuf};

use forebay_format::DriveLayout;
use forebay_io::{DriveError, DriveFile, device_bytes, is_block_device};
use forebay_types::{Clock, format_size};

use super::{Finding, speed};
use crate::device::{Holds, is_among_devices, look};
use crate::drives::{Found, read_superblock};

const PLACE: &str = "place";

/// What is on the device, whether a node can have it, and how fast it is read. `progress` hears thousandths.
pub(super) fn findings(path: &Path, clock: &dyn Clock, progress: &mut dyn FnMut(u64)) -> Vec<Finding> {
    let shown = path.display();
    let size = device_bytes(path).map_or_else(String::new, |bytes| format!(" of {}", format_size(bytes)));
    let device = match DriveFile::open(path) {
        Ok(device) => device,
        Err(DriveError::InUse { .. }) => {
            progress(1000);
            return vec![Finding::ok(PLACE, format!("{shown}, a device{size} that a node uses now"))];
        }
        Err(error) => {
            progress(1000);
            let cure =
                "free the device or name another one with --data; give the node's user the right to read and write it";
            return vec![Finding::fail(PLACE, error.to_string(), cure)];
        }
    };
    let (align, least) = (device.align(), DriveLayout::bytes_min(1, None));
    let place = match holds(&device) {
        _ if device.len() < least => Finding::fail(
            PLACE,
            format!("{shown}, a device{size}, and the smallest drive takes {}", format_size(least)),
            "name a larger device with --data",
        ),
        Ok(what) => Finding::ok(PLACE, format!("{shown}, a device{size} aligned to {align} bytes: {what}")),
        Err(what) => Finding::fail(
            PLACE,
            format!("{shown}, a device{size}, holds {what}: a node leaves that alone"),
            format!(
                "name another device; or, if nothing on it is wanted, start a node once with --format-device {shown}"
            ),
        ),
    };
    let mut all = vec![place, Finding::ok("direct I/O", format!("on, aligned to {align} bytes"))];
    all.extend(speed::findings(device, speed::Look::ReadOnly, clock, progress));
    progress(1000);
    all
}

/// What is on it that a node can serve from, or what it would leave alone.
fn holds(device: &DriveFile) -> Result<&'static str, String> {
    match read_superblock(device) {
        Ok(Found::Drive(_)) => Ok("a drive of Forebay; see `forebay inspect`"),
        Ok(Found::Foreign(_)) => match look(device) {
            Ok(Holds::Nothing) => Ok("blank"),
            Ok(Holds::Something(what)) => Err(what.to_owned()),
            Err(error) => Err(format!("what cannot be read ({error})")),
        },
        Err(error) => Err(format!("a drive that this build cannot use ({error})")),
    }
}

/// Where the catalogue would lie, if that has to be said.
pub(super) fn catalogue(data: &[PathBuf], named: Option<&Path>) -> Option<Finding> {
    let check = "catalogue";
    let cure = "--catalog PATH on a file system that lasts, as in --catalog /var/lib/forebay/catalog";
    let Some(path) = named else {
        let all = !data.is_empty() && data.iter().all(|path| is_block_device(path));
        return all.then(|| Finding::fail(check, "every drive is a device, and no file is named for it", cure));
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let shown = path.display();
    Some(match () {
        () if is_among_devices(path) => {
            Finding::fail(check, format!("{shown} is among devices, and gone with the next boot"), cure)
        }
        () if path.is_dir() => Finding::fail(check, format!("{shown} is a directory"), cure),
        () if path.is_file() => Finding::ok(check, shown.to_string()),
        () if folder.is_dir() => Finding::ok(check, format!("{shown}, not made yet")),
        () => Finding::fail(
            check,
            format!("{shown} cannot be made: its folder does not exist"),
            format!("make its folder: `mkdir -p {}`", folder.display()),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_catalogue_is_looked_at_where_it_is_named() {
        let level = |named: Option<&str>| catalogue(&["drive".into()], named.map(Path::new)).map(|found| found.level);
        assert_eq!(level(None), None, "it lies beside the file");
        assert_eq!(level(Some("/dev/nvme0n1.catalog")), Some(Level::Fail));
        assert_eq!(level(Some("/nowhere/at/all/catalog")), Some(Level::Fail));
        assert_eq!(level(Some("/")), Some(Level::Fail));
        assert_eq!(level(Some("not-there-yet")), Some(Level::Ok));
    }
}
