//! One connection to a host: frames in, calls to a plugin, frames out.

use std::sync::{mpsc, Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{watch, Notify};
use tokio::time::{timeout, timeout_at};

use crate::call::{Outcome, Peer, Sent};
use crate::logs;
use crate::runner::Runner;
use crate::wire::{close_payload, data_payload, Event, Wire};
use crate::BackendPlugin;

/// For the host's HELLO: where another plugin serves, it comes when that one has ended.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// For one frame, from its first byte to its last.
const FRAME: Duration = Duration::from_secs(10);
/// For calls that run when this process is asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(25);
/// To write what is left, and for the host's answer to a PING.
const CLOSING: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(250);
const METRICS: Duration = Duration::from_secs(10);
/// Of the PING that follows GOAWAY: its echo says that the host has read both.
const DRAIN_TOKEN: u32 = 0x64_7261;
/// Bytes that wait for a host that does not read, at which it gets no more notes.
const MAX_QUEUED: usize = 256 * 1024;

/// The connection as calls see it.
pub(crate) struct Link {
    wire: Mutex<Wire>,
    queued: Notify,
}

impl Link {
    /// Change the connection, and have what that queued written.
    fn with<T>(&self, work: impl FnOnce(&mut Wire) -> T) -> T {
        let mut wire = self.wire.lock().unwrap();
        let result = work(&mut wire);
        let queued = !wire.output.is_empty();
        drop(wire);
        if queued {
            self.queued.notify_one();
        }
        result
    }

    /// Is it there, and does the host read what it is sent?
    pub fn takes_notes(&self) -> bool {
        let wire = self.wire.lock().unwrap();
        wire.is_ready() && wire.output.len() < MAX_QUEUED
    }
}

impl Peer for Link {
    fn close(&self, call: u64, outcome: Outcome) {
        let payload = close_payload(&outcome);
        self.with(|wire| wire.close(call as u32, &outcome, &payload));
    }

    fn send(&self, call: u64, json: &str, position: &str) -> Sent {
        let room = self.wire.lock().unwrap().room(call as u32);
        if room != Sent::Taken {
            return room;
        }
        let payload = data_payload(json, position);
        self.with(|wire| wire.send(call as u32, &payload))
    }

    fn taken(&self, call: u64, size: u32) {
        self.with(|wire| wire.taken(call as u32, size));
    }

    fn note(&self, note: &str) {
        if self.takes_notes() {
            self.with(|wire| wire.note(note));
        }
    }
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The host is gone, or has shut the plugin down.
    Over,
    /// … for good: another process has this one's place.
    Replaced,
    /// There was no session: the host refused, or said nothing.
    Refused(String),
}

/// Serve `plugin` to the host at the other end, until it is gone or `stopping` says so.
pub(crate) async fn serve_session(
    reader: impl AsyncRead + Unpin + Send + 'static,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    name: &str,
    version: &str,
    plugin: Box<dyn BackendPlugin>,
    mut stopping: watch::Receiver<bool>,
) -> Ended {
    let trace = matches!(std::env::var("PRISM_TRACE"), Ok(value) if value == "1");
    let link = Arc::new(Link {
        wire: Mutex::new(Wire::new(name, version, &random(), trace)),
        queued: Notify::new(),
    });
    link.queued.notify_one();
    let tasks = Handle::current();
    let runner = Runner::new(name, version, plugin, link.clone(), tasks.clone());
    let pong = Arc::new(Notify::new());
    // In a task of its own, so that it reads on where this one waits for calls to end.
    let reading = tokio::spawn(read(reader, link.clone(), runner.clone(), pong.clone()));
    let (finish, finished) = watch::channel(false);
    // Ends with this one, so that a host that reads nothing does not keep the connection.
    let mut writing = Guard(tokio::spawn(write(writer, link.clone(), finished)));
    let (_done, ended) = mpsc::channel();
    let (telling, counted) = (link.clone(), runner.clone());
    std::thread::spawn(move || tell(&telling, &counted, &tasks, &ended));
    let mut reading = Guard(reading);
    let urgent = link.clone();
    let _urgent = Guard(tokio::spawn(async move {
        loop {
            logs::urgent().await;
            logs::send(&urgent);
        }
    }));
    let ended = tokio::select! {
        ended = &mut reading.0 => ended.unwrap_or(Ended::Over),
        () = runner.over.notified() => Ended::Over,
        () = asked(&mut stopping) => {
            if link.wire.lock().unwrap().is_ready() {
                link.with(|wire| {
                    wire.goaway("the plugin's process was asked to stop");
                    wire.ping(DRAIN_TOKEN);
                });
                // What crossed the GOAWAY is refused: that it was not started is sure now.
                let refusing = runner.drain(STOP_GRACE);
                let _ = tokio::join!(timeout(CLOSING, pong.notified()), refusing);
            }
            Ended::Over
        }
    };
    runner.stop("the connection to the host ended").await;
    if !reading.0.is_finished() {
        logs::send(&link); // nobody else would read them
    }
    let _ = finish.send(true);
    link.queued.notify_one();
    let _ = timeout(CLOSING, &mut writing.0).await;
    if runner.replaced.load(std::sync::atomic::Ordering::Relaxed) {
        return Ended::Replaced;
    }
    ended
}

/// Returns once this process is asked to stop; never where nobody could ask any more.
pub(crate) async fn asked(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// A task that ends with what it is for.
struct Guard<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Read frames and act on them, until the connection ends.
async fn read(
    mut reader: impl AsyncRead + Unpin,
    link: Arc<Link>,
    runner: Arc<Runner>,
    pong: Arc<Notify>,
) -> Ended {
    let mut buffer = vec![0; 64 * 1024];
    let mut events = Vec::new();
    let mut give_up = Some(Instant::now() + HANDSHAKE);
    let mut frame_began = None;
    let mut ready = false;
    loop {
        let received = reader.read(&mut buffer);
        let size = match give_up.or_else(|| frame_began.map(|at| at + FRAME)) {
            None => received.await.unwrap_or(0),
            Some(at) => match timeout_at(at.into(), received).await {
                Ok(size) => size.unwrap_or(0),
                Err(_) if !ready => {
                    return Ended::Refused("the host did not answer HELLO in time".into())
                }
                Err(_) => {
                    broken(&link, "a frame took longer than 10 s");
                    return Ended::Over;
                }
            },
        };
        if size == 0 {
            return match ready {
                true => Ended::Over,
                false => Ended::Refused("the host closed the connection instead of HELLO".into()),
            };
        }
        let result = link.with(|wire| {
            wire.receive(&buffer[..size]);
            let result = loop {
                match wire.next() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break Ok(()),
                    Err(rule) => break Err(rule),
                }
            };
            match wire.is_within_frame() {
                true => frame_began = frame_began.or_else(|| Some(Instant::now())),
                false => frame_began = None,
            }
            ready = wire.is_ready();
            result
        });
        if let Err(rule) = result {
            broken(&link, &rule); // of such a host nothing more is begun
            return match ready {
                true => Ended::Over,
                false => Ended::Refused(rule),
            };
        }
        for event in events.drain(..) {
            match event {
                Event::Hello => give_up = None,
                Event::GoAway { reason } if !ready => {
                    return Ended::Refused(format!("the host refused this plugin: {reason}"))
                }
                Event::GoAway { reason } => log::warn!("the host says goodbye: {reason}"),
                Event::Pong { token } => {
                    if token == DRAIN_TOKEN {
                        pong.notify_one();
                    }
                }
                event => dispatch(&runner, event),
            }
        }
    }
}

/// Act on a frame of a call.
fn dispatch(runner: &Arc<Runner>, event: Event) {
    match event {
        Event::Open {
            stream,
            request,
            milliseconds,
            ended,
        } => {
            let left = Duration::from_millis(milliseconds.into());
            let deadline = (milliseconds > 0).then(|| Instant::now() + left);
            runner.open(stream.into(), request, deadline, ended);
        }
        Event::Data {
            stream,
            params,
            end,
            size,
        } => {
            let nothing = end && params.params_json.is_empty() && params.params_raw.is_empty();
            let message = Some((params.params_json, size)).filter(|_| !nothing);
            runner.data(stream.into(), message, end);
        }
        Event::Cancel { stream, status } => runner.cancel(stream.into(), status),
        Event::Room { stream } => runner.room(stream.into()),
        Event::Hello | Event::Pong { .. } | Event::GoAway { .. } => {}
    }
}

fn broken(link: &Link, rule: &str) {
    log::error!("the host broke the frame protocol: {rule}");
    link.with(|wire| wire.goaway(rule));
}

/// Write what is queued, in one piece what came together, until there is no more to come.
async fn write(
    mut writer: impl AsyncWrite + Unpin,
    link: Arc<Link>,
    mut finished: watch::Receiver<bool>,
) {
    let mut batch = Vec::new();
    loop {
        std::mem::swap(&mut batch, &mut link.wire.lock().unwrap().output);
        if batch.is_empty() {
            if *finished.borrow_and_update() {
                break;
            }
            link.queued.notified().await;
            continue;
        }
        if writer.write_all(&batch).await.is_err() {
            return; // the reader learns of it, too
        }
        batch.clear();
        batch.shrink_to(MAX_QUEUED);
    }
    let _ = writer.shutdown().await;
}

/// Send logs soon, and metrics where they have changed, until `ended` is.
///
/// A thread of its own: where a handler blocks or computes, and its thread was the one of tokio's
/// that waits for sockets and timers, these stand still until something is spawned from outside.
fn tell(link: &Arc<Link>, runner: &Runner, tasks: &Handle, ended: &mpsc::Receiver<()>) {
    let mut told = runner.metrics();
    let mut at = Instant::now() + METRICS;
    while ended.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
        let mut note = None;
        if Instant::now() >= at {
            at = Instant::now() + METRICS;
            let now = runner.metrics();
            if now != told {
                note = Some(serde_json::json!({ "metrics": now }).to_string());
                told = now;
            }
        }
        let link = link.clone();
        tasks.spawn(async move {
            logs::send(&link);
            if let Some(note) = note {
                link.note(&note);
            }
        });
    }
}

/// 128 bits, different for each start of a process.
fn random() -> String {
    use std::collections::hash_map::RandomState;
    use std::hash::{BuildHasher, Hasher};
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}
