//! What an author sees of a call and of the host: context, streams, metrics, health.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};
use std::task;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::Serialize;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::Notify;

use crate::messages::{from_json, to_json, Error, Health, Status};

/// Where the frames of calls go: a connection, or the program that has loaded this library.
pub(crate) trait Peer: Send + Sync {
    /// End a call. The kit does it once for each.
    fn close(&self, call: u64, outcome: Outcome);
    /// Send a message on a stream, if there is room for it.
    fn send(&self, call: u64, json: &str, position: &str) -> Sent;
    /// A message of the client, which cost `size`, has been dealt with.
    fn taken(&self, call: u64, size: u32);
    /// Tell something that is not about a call: a NOTE, as JSON. It may be dropped.
    fn note(&self, note: &str);
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Taken,
    /// Not now: the peer will call `room`.
    Full,
    /// The call is over.
    Over,
    TooLong,
}

/// How a call ends.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub status: Status,
    /// Of success: the result of an operation, or the response of another method, as JSON.
    /// Otherwise the sentence; empty where there is nothing to say.
    pub text: String,
    pub is_result: bool,
    pub not_started: bool,
}

impl Outcome {
    pub fn ok(text: String) -> Outcome {
        Outcome {
            status: Status::Ok,
            text,
            is_result: false,
            not_started: false,
        }
    }

    pub fn failed(status: Status, text: impl Into<String>) -> Outcome {
        Outcome {
            status,
            text: text.into(),
            is_result: false,
            not_started: false,
        }
    }

    pub fn refused(status: Status, text: impl Into<String>) -> Outcome {
        Outcome {
            not_started: true,
            ..Outcome::failed(status, text)
        }
    }
}

/// How long a call may take, and whether somebody still waits for it.
///
/// A call that is cancelled, or whose time is up, is dropped at its next `await`. What it has
/// started elsewhere, with `tokio::spawn` say, takes a clone along and looks for itself.
#[derive(Clone, Debug, Default)]
pub struct Context(pub(crate) Arc<Ending>);

#[derive(Debug)]
pub(crate) struct Ending {
    deadline: Option<Instant>,
    /// The status of the cancel; `RUNS` before.
    status: AtomicU32,
    changed: Notify,
}

const RUNS: u32 = u32::MAX;

impl Default for Ending {
    fn default() -> Self {
        Ending {
            deadline: None,
            status: AtomicU32::new(RUNS),
            changed: Notify::new(),
        }
    }
}

impl Context {
    pub(crate) fn until(deadline: Option<Instant>) -> Context {
        Context(Arc::new(Ending {
            deadline,
            ..Default::default()
        }))
    }

    /// When its time is up; `None`: it may take as long as it likes.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// What is left until then.
    pub fn time_left(&self) -> Option<Duration> {
        (self.0.deadline).map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Does nobody wait for it any more?
    pub fn is_cancelled(&self) -> bool {
        self.0.status.load(Relaxed) != RUNS
            || matches!(self.0.deadline, Some(at) if at <= Instant::now())
    }

    /// Returns once nobody waits for it any more.
    pub async fn cancelled(&self) {
        self.ended().await;
    }

    pub(crate) fn cancel(&self, status: Status) {
        let _ = (self.0.status).compare_exchange(RUNS, status as u32, Relaxed, Relaxed);
        self.0.changed.notify_waiters();
    }

    /// The status that the call ends with, once it is cancelled or its time is up.
    pub(crate) async fn ended(&self) -> Status {
        let cancelled = async {
            loop {
                let changed = self.0.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable(); // before the look, so that no cancel is missed
                match self.0.status.load(Relaxed) {
                    RUNS => changed.await,
                    status => return Status::from_code(status),
                }
            }
        };
        match self.0.deadline {
            None => cancelled.await,
            Some(at) => (tokio::time::timeout_at(at.into(), cancelled).await)
                .unwrap_or(Status::DeadlineExceeded),
        }
    }
}

/// A call that runs, as the peer finds it by its number.
pub(crate) struct Call {
    pub number: u64,
    pub context: Context,
    pub is_shutdown: bool,
    /// Where further messages of the client go; `None` once it has said END.
    pub inbox: Mutex<Option<tokio::sync::mpsc::UnboundedSender<Message>>>,
    pub room: Notify,
    pub peer: Arc<dyn Peer>,
}

/// Params, and their cost.
pub(crate) type Message = (String, u32);

/// Both directions of a stream.
pub struct Stream {
    sender: Sender,
    messages: Messages,
}

/// The direction to the client.
pub struct Sender(Arc<Call>);

/// The direction from the client.
pub struct Messages {
    call: Arc<Call>,
    inbox: UnboundedReceiver<Message>,
}

impl Stream {
    pub(crate) fn new(call: Arc<Call>, inbox: UnboundedReceiver<Message>) -> Stream {
        Stream {
            sender: Sender(call.clone()),
            messages: Messages { call, inbox },
        }
    }

    /// See [`Sender::send`].
    pub async fn send<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.sender.send(value).await
    }

    /// See [`Messages::next`].
    pub async fn next(&mut self) -> Option<String> {
        self.messages.next().await
    }

    /// See [`Messages::next_as`].
    pub async fn next_as<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        self.messages.next_as().await
    }

    /// The two directions, for code that reads and writes at a time.
    pub fn split(self) -> (Sender, Messages) {
        (self.sender, self.messages)
    }
}

impl Sender {
    /// Send one message; waits while the client does not keep up.
    pub async fn send<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.send_json(&to_json(value)?, "").await
    }

    /// Send JSON that is there already. `position`, if not empty, is text of your making, up to
    /// 1 KiB, by which a later stream can [resume](crate::ExecuteRequest::resume_after) after it.
    pub async fn send_json(&mut self, json: &str, position: &str) -> Result<(), Error> {
        if position.len() > 1024 {
            return Err(Error::new(
                Status::Internal,
                "a position is at most 1024 bytes long",
            ));
        }
        loop {
            match self.0.peer.send(self.0.number, json, position) {
                Sent::Taken => return Ok(()),
                Sent::Full => self.0.room.notified().await,
                Sent::Over => return Err(Error::new(Status::Cancelled, "the call is over")),
                Sent::TooLong => return Err(Error::new(Status::ResourceExhausted, TOO_LONG)),
            }
        }
    }
}

/// Told of a stream's message that the host does not carry.
pub(crate) const TOO_LONG: &str = "the plugin's message is too large";

impl Messages {
    /// The params of the client's next message, after the first, which came with the call; `None`
    /// once it has said that there are no more.
    pub async fn next(&mut self) -> Option<String> {
        let (params, size) = self.inbox.recv().await?;
        self.call.peer.taken(self.call.number, size);
        Some(params)
    }

    /// The same, as `T`.
    pub async fn next_as<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        match self.next().await {
            Some(params) => from_json(&params, "params").map(Some),
            None => Ok(None),
        }
    }
}

/// Counters and gauges, as Prometheus sees them. The first three are kept by the kit.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Metrics {
    pub requests_total: AtomicU64,
    pub requests_failed: AtomicU64,
    pub(crate) latency_us: AtomicU64,
    pub connections_active: AtomicI64,
    pub connections_idle: AtomicI64,
    pub queries_executed: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
    custom: Mutex<BTreeMap<String, f64>>,
}

#[derive(Clone, PartialEq, Serialize)]
pub(crate) struct MetricsNow {
    requests_total: u64,
    requests_failed: u64,
    latency_ms: f64,
    connections_active: i64,
    connections_idle: i64,
    queries_executed: u64,
    cache_hits: u64,
    cache_misses: u64,
    custom_metrics_json: String,
}

impl Metrics {
    /// Set a metric of your own: `prism_plugin_custom{name="…"}`.
    pub fn set(&self, name: &str, value: f64) {
        self.custom.lock().unwrap().insert(name.to_owned(), value);
    }

    pub(crate) fn now(&self) -> MetricsNow {
        MetricsNow {
            requests_total: self.requests_total.load(Relaxed),
            requests_failed: self.requests_failed.load(Relaxed),
            latency_ms: self.latency_us.load(Relaxed) as f64 / 1000.0,
            connections_active: self.connections_active.load(Relaxed),
            connections_idle: self.connections_idle.load(Relaxed),
            queries_executed: self.queries_executed.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            cache_misses: self.cache_misses.load(Relaxed),
            custom_metrics_json: to_json(&*self.custom.lock().unwrap()).unwrap_or_default(),
        }
    }
}

/// The plugin's line to its host, beside calls.
#[derive(Clone, Default)]
pub struct Host(pub(crate) Arc<HostState>);

#[derive(Default)]
pub(crate) struct HostState {
    pub metrics: Metrics,
    pub draining: AtomicBool,
    pub peer: RwLock<Option<Arc<dyn Peer>>>,
}

impl Host {
    /// Of this plugin object.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Tell a change of health at once, without waiting to be asked.
    pub fn health(&self, status: Health, message: &str) {
        let health = serde_json::json!({"health": {"status": status, "message": message}});
        self.note(&health.to_string());
    }

    /// Is the plugin about to end? Its running calls still have some time.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Relaxed)
    }

    pub(crate) fn note(&self, note: &str) {
        if let Some(peer) = &*self.0.peer.read().unwrap() {
            peer.note(note);
        }
    }
}

/// What the future came to, or what it panicked with.
pub(crate) async fn catch<T>(work: impl Future<Output = T>) -> Result<T, String> {
    tokio::pin!(work);
    Catch(work).await
}

struct Catch<'a, F>(Pin<&'a mut F>);

impl<F: Future> Future for Catch<'_, F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => task::Poll::Ready(Err(panic_text(&*panic))),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of no text".to_owned())
}
