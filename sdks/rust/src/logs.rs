//! `log::info!(…)` and its like travel to the proxy, and appear in its log with the namespace.

use std::collections::{HashMap, LinkedList};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use tokio::sync::Notify;

use crate::call::Peer;
use crate::session::Link;

/// Records kept for the host; beyond it the oldest are dropped and counted.
const MAX_PENDING: usize = 1000;
/// Bytes of one record; longer ones are cut.
const MAX_MESSAGE: usize = 8 * 1024;
/// Records, and bytes of them, in one NOTE, whose frame a host may want small.
const MAX_RECORDS: usize = 100;
const MAX_TEXT: usize = 16 * 1024;

#[derive(Serialize)]
pub(crate) struct Line {
    message: String,
    level: &'static str,
    logger: String,
    time: f64,
}

struct Pending {
    lines: LinkedList<Line>,
    dropped: usize,
}

static PENDING: Mutex<Pending> = Mutex::new(Pending {
    lines: LinkedList::new(),
    dropped: 0,
});
static ON_CONSOLE: AtomicBool = AtomicBool::new(false);
static URGENT: Notify = Notify::const_new();

struct Logger;

/// Take in what is logged; `on_console`: write it to standard error as well. A logger that the
/// program has set before stays, and gets what is logged instead.
pub(crate) fn install(on_console: bool) {
    ON_CONSOLE.store(on_console, Relaxed);
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let line = Line::of(record);
        if ON_CONSOLE.load(Relaxed) {
            line.print();
        }
        let mut pending = PENDING.lock().unwrap();
        if pending.lines.len() == MAX_PENDING {
            pending.lines.pop_front();
            pending.dropped += 1;
        }
        pending.lines.push_back(line);
        if record.level() == Level::Error {
            URGENT.notify_one(); // it may be a process's last words
        }
    }

    fn flush(&self) {}
}

impl Line {
    fn of(record: &Record<'_>) -> Line {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Line {
            message: cut(hide(&record.args().to_string()), MAX_MESSAGE),
            level: level(record.level()),
            logger: record.target().to_owned(),
            time: since.map_or(0.0, |since| since.as_secs_f64()),
        }
    }

    fn print(&self) {
        let mut stderr = std::io::stderr();
        let _ = writeln!(stderr, "{} {}: {}", self.level, self.logger, self.message);
    }
}

/// At most `longest` bytes of `text`.
pub(crate) fn cut(mut text: String, longest: usize) -> String {
    if text.len() > longest {
        let at = (0..=longest).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(at.unwrap_or(0));
    }
    text
}

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// From now on, `hide` blanks these, as they are and as JSON has them. Users' names are none.
pub(crate) fn keep_secret(credentials: &HashMap<String, String>) {
    let mut secrets = SECRETS.write().unwrap();
    for (name, secret) in credentials {
        let is_name = ["user", "username", "login", "client_id"];
        if is_name.iter().any(|end| name.ends_with(end)) || secret.len() < 4 {
            continue;
        }
        let quoted = serde_json::Value::from(secret.as_str()).to_string();
        for form in [&quoted[1..quoted.len() - 1], secret] {
            if !secrets.iter().any(|known| known == form) {
                secrets.push(form.to_owned());
            }
        }
    }
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len())); // one may be within another
}

pub(crate) fn hide(text: &str) -> String {
    let secrets = SECRETS.read().unwrap();
    (secrets.iter()).fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

/// Returns once something was logged that should leave at once.
pub(crate) async fn urgent() {
    URGENT.notified().await;
}

/// Send what was logged, as far as the host takes it.
pub(crate) fn send(link: &Link) {
    while link.takes_notes() {
        let lines = take();
        if lines.is_empty() {
            return;
        }
        link.note(&serde_json::json!({ "logs": lines }).to_string());
    }
}

/// Print what no host has taken.
pub(crate) fn print_rest() {
    loop {
        let lines = take();
        if lines.is_empty() {
            return;
        }
        lines.iter().for_each(Line::print);
    }
}

fn take() -> Vec<Line> {
    let mut pending = PENDING.lock().unwrap();
    let (mut lines, mut size) = (Vec::new(), 0);
    while lines.len() < MAX_RECORDS && size < MAX_TEXT {
        match pending.lines.pop_front() {
            Some(line) => {
                size += line.message.len();
                lines.push(line);
            }
            None => break,
        }
    }
    let dropped = std::mem::take(&mut pending.dropped);
    if dropped > 0 {
        lines.push(Line {
            message: format!("{dropped} log records were dropped: too many at once"),
            level: "WARNING",
            logger: "prism_plugin".into(),
            time: 0.0,
        });
    }
    lines
}
