//! The log file of audit: one event a line, rotated by size, old files removed by age and number, as upstream's
//! (`gopkg.in/natefinch/lumberjack.v2`) name and keep them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As JSON.
    #[default]
    Json,
    /// As text ([`super::legacy`]).
    Legacy,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Format::Json),
            "legacy" => Ok(Format::Legacy),
            _ => Err(format!("invalid audit log format {text}, allowed formats are \"json,legacy\"")),
        }
    }
}

/// How a log file is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// A file that would grow beyond this is put aside; in bytes.
    pub max_size: u64,
    /// Files put aside are removed after so many days; 0 for never.
    pub max_age_days: u32,
    /// So many of them are kept; 0 for all.
    pub max_backups: u32,
    /// Whether they are compressed.
    pub compress: bool,
    /// What its lines are.
    pub format: Format,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { max_size: 100 << 20, max_age_days: 366, max_backups: 100, compress: false, format: Format::Json }
    }
}

/// A file that events are written to.
pub struct LogFile {
    path: PathBuf,
    keep: Keep,
    open: Mutex<Open>,
}

struct Open {
    file: File,
    size: u64,
}

impl LogFile {
    /// Opens a file to append to it; `-` is standard output.
    pub fn open(path: &Path, keep: Keep) -> io::Result<LogFile> {
        let (file, size) = if path == Path::new("-") {
            (OpenOptions::new().append(true).open("/dev/stdout")?, 0)
        } else {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            let file = append(path)?;
            let size = file.metadata()?.len();
            (file, size)
        };
        Ok(LogFile { path: path.to_owned(), keep, open: Mutex::new(Open { file, size }) })
    }

    /// Writes events, each a line, at once. What cannot be written is an error, and lost.
    pub fn write_events(&self, events: &[String]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(events.iter().map(|e| e.len() + 1).sum());
        for event in events {
            match self.keep.format {
                Format::Json => lines.extend_from_slice(event.as_bytes()),
                Format::Legacy => lines.extend_from_slice(super::legacy::line(event).as_bytes()),
            }
            lines.push(b'\n');
        }
        self.write(&lines)
    }

    /// Writes lines, each with its end.
    fn write(&self, lines: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        let len = lines.len() as u64;
        if open.size > 0 && open.size + len > self.keep.max_size && self.path != Path::new("-") {
            self.rotate(&mut open)?;
        }
        open.file.write_all(lines)?;
        open.size += len;
        Ok(())
    }

    fn rotate(&self, open: &mut Open) -> io::Result<()> {
        let now = Timestamp::now();
        let aside = self.path.with_file_name(backup_name(&self.path, now));
        std::fs::rename(&self.path, &aside)?;
        open.file = append(&self.path)?;
        open.size = 0;
        let (path, keep) = (self.path.clone(), self.keep.clone());
        let tidy = move || {
            if keep.compress
                && let Err(error) = compress(&aside)
            {
                tracing::warn!(file = %aside.display(), %error, "an audit log could not be compressed");
            }
            if let Err(error) = tidy(&path, &keep, now) {
                tracing::warn!(%error, "old audit logs could not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(tidy)),
            Err(_) => tidy(),
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

const TIME: &str = "%Y-%m-%dT%H-%M-%S.%3f";

fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rfind('.') {
        Some(dot) => (format!("{}-", &name[..dot]), name[dot..].to_owned()),
        None => (format!("{name}-"), String::new()),
    }
}

/// `audit-2026-11-21T09-00-00.000.log` for `audit.log`.
fn backup_name(path: &Path, now: Timestamp) -> String {
    let (prefix, extension) = parts(path);
    format!("{prefix}{}{extension}", now.strftime(TIME))
}

/// When a file was put aside, if its name says that it is one of a log's.
fn backup_time(path: &Path, name: &str) -> Option<Timestamp> {
    let (prefix, extension) = parts(path);
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let time = name.strip_prefix(&prefix)?.strip_suffix(&extension)?;
    jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", time).ok()?.in_tz("UTC").ok().map(|z| z.timestamp())
}

/// Which of the files beside a log are to be removed.
fn superfluous(path: &Path, names: &[String], keep: &Keep, now: Timestamp) -> Vec<String> {
    let mut found: Vec<(Timestamp, &String)> =
        names.iter().filter_map(|name| Some((backup_time(path, name)?, name))).collect();
    found.sort_by(|a, b| b.cmp(a));
    let limit = usize::try_from(keep.max_backups).unwrap_or(usize::MAX);
    let oldest = now.checked_sub(SignedDuration::from_hours(24 * i64::from(keep.max_age_days))).unwrap_or(now);
    let old = |i: usize, time: Timestamp| (limit > 0 && i >= limit) || (keep.max_age_days > 0 && time < oldest);
    found.iter().enumerate().filter(|(i, (time, _))| old(*i, *time)).map(|(_, (_, name))| (*name).clone()).collect()
}

fn tidy(path: &Path, keep: &Keep, now: Timestamp) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect();
    for name in superfluous(path, &names, keep, now) {
        std::fs::remove_file(dir.join(name))?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut to = path.as_os_str().to_owned();
    to.push(".gz");
    let to = PathBuf::from(to);
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&to)?;
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_told_by_their_names_and_the_oldest_go() {
        let path = Path::new("/var/log/audit.log");
        let now: Timestamp = "2026-11-21T09:00:00.25Z".parse().expect("time");
        assert_eq!(backup_name(path, now), "audit-2026-11-21T09-00-00.250.log");
        let names: Vec<String> = [
            "audit-2026-11-21T08-00-00.000.log",
            "audit-2026-11-20T08-00-00.000.log.gz",
            "audit-2026-11-01T08-00-00.000.log",
            "audit-2026-11-21T07-00-00.000.log",
            "audit-old.log",
            "audit.log",
            "other-2026-11-01T08-00-00.000.log",
        ]
        .map(str::to_owned)
        .to_vec();
        let check = |max_backups: u32, max_age_days: u32, expected: &[&str]| {
            let keep = Keep { max_backups, max_age_days, ..Keep::default() };
            assert_eq!(superfluous(path, &names, &keep, now), expected);
        };
        check(0, 0, &[]);
        check(2, 0, &["audit-2026-11-20T08-00-00.000.log.gz", "audit-2026-11-01T08-00-00.000.log"]);
        check(0, 7, &["audit-2026-11-01T08-00-00.000.log"]);
    }

    #[test]
    fn events_are_written_in_the_format_asked_for() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("audit.log");
        let event = r#"{"auditID":"x","stage":"Panic"}"#.to_owned();
        for format in ["json", "legacy"] {
            let keep = Keep { format: format.parse().expect("a format"), ..Keep::default() };
            let log = LogFile::open(&path, keep).expect("opens");
            log.write_events(&[event.clone(), event.clone()]).expect("written");
        }
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], [&event, &event]);
        assert!(lines[2].contains(r#" AUDIT: id="x" stage="Panic" "#) && lines.len() == 4, "{text}");
        assert!("text".parse::<Format>().is_err());
    }

    #[test]
    fn a_file_is_put_aside_before_it_grows_too_large() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("logs/audit.log");
        let keep = Keep { max_size: 10, compress: true, ..Keep::default() };
        let log = LogFile::open(&path, keep.clone()).expect("opens");
        for line in ["one two\n", "three\n", "four\n"] {
            log.write(line.as_bytes()).expect("written");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "four\n");
        let names: Vec<String> = std::fs::read_dir(path.parent().expect("parent"))
            .expect("listed")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names.iter().filter(|n| n.ends_with(".log.gz")).count(), 2, "{names:?}");
        drop(log);
        LogFile::open(&path, keep).and_then(|l| l.write(b"5\n")).expect("appended");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "four\n5\n");
    }
}
