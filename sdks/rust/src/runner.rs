//! Runs the calls of one plugin object, whoever brings them, and ends each exactly once.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, Notify};

use crate::call::{catch, Call, Context, Host, Message, MetricsNow, Outcome, Peer, Stream};
use crate::messages::{
    told, with_causes, BoxError, ExecuteRequest, ExecuteResponse, Health, HealthCheckRequest,
    HealthCheckResponse, InitializeRequest, InitializeResponse, Operation, ShutdownRequest, Status,
};
use crate::{logs, BackendPlugin};

/// What a call asks for.
#[derive(Debug)]
pub(crate) enum Request {
    Initialize(Box<InitializeRequest>),
    HealthCheck(HealthCheckRequest),
    Execute(Params),
    ExecuteStream(Params),
    Shutdown(ShutdownRequest),
}

/// An Execute, or one message of a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Params {
    pub operation: String,
    pub params_json: String,
    pub params_raw: String,
    pub metadata: HashMap<String, String>,
}

pub(crate) struct Runner {
    name: String,
    version: String,
    plugin: Mutex<State>,
    calls: Mutex<HashMap<u64, Arc<Call>>>,
    one_ended: Notify,
    peer: Arc<dyn Peer>,
    host: Host,
    tasks: Handle,
    /// Shutdown was answered.
    pub over: Notify,
    /// … for good: another process has this one's place.
    pub replaced: AtomicBool,
}

enum State {
    New(Box<dyn BackendPlugin>),
    Starting,
    Serving(Arc<Serving>),
    /// Initialize failed, or the plugin was shut down.
    Ended,
}

struct Serving {
    plugin: Box<dyn BackendPlugin>,
    operations: HashMap<String, Forms>,
}

/// How an operation may be called.
struct Forms {
    single: bool,
    stream: bool,
}

const STOPPED: &str = "the plugin stopped before the call had ended; it may have run";

impl Runner {
    pub fn new(
        name: &str,
        version: &str,
        plugin: Box<dyn BackendPlugin>,
        peer: Arc<dyn Peer>,
        tasks: Handle,
    ) -> Arc<Runner> {
        let host = Host::default();
        *host.0.peer.write().unwrap() = Some(peer.clone());
        Arc::new(Runner {
            name: name.to_owned(),
            version: version.to_owned(),
            plugin: Mutex::new(State::New(plugin)),
            calls: Mutex::default(),
            one_ended: Notify::new(),
            peer,
            host,
            tasks,
            over: Notify::new(),
            replaced: AtomicBool::new(false),
        })
    }

    pub fn metrics(&self) -> MetricsNow {
        self.host.metrics().now()
    }

    /// Begin a call. `ended`: no further messages of the client will come.
    pub fn open(
        self: &Arc<Self>,
        number: u64,
        request: Request,
        deadline: Option<Instant>,
        ended: bool,
    ) {
        use Request::{HealthCheck, Shutdown};
        if matches!(request, Shutdown(_)) {
            self.host.0.draining.store(true, Relaxed); // for the very next call, too
        } else if self.host.is_draining() && !matches!(request, HealthCheck(_)) {
            let refused = Outcome::refused(Status::Unavailable, "the plugin is stopping");
            return self.peer.close(number, refused);
        }
        let (sender, inbox) = match request {
            Request::ExecuteStream(_) => {
                let (sender, inbox) = mpsc::unbounded_channel();
                (Some(sender).filter(|_| !ended), Some(inbox))
            }
            _ => (None, None),
        };
        let call = Arc::new(Call {
            number,
            context: Context::until(deadline),
            is_shutdown: matches!(request, Shutdown(_)),
            inbox: Mutex::new(sender),
            room: Notify::new(),
            peer: self.peer.clone(),
        });
        self.calls.lock().unwrap().insert(number, call.clone());
        self.tasks.spawn(self.clone().run(call, request, inbox));
    }

    /// A further message of a stream, and whether it is the last. The call may be over.
    pub fn data(&self, number: u64, message: Option<Message>, end: bool) {
        if let Some(call) = self.calls.lock().unwrap().get(&number) {
            let mut inbox = call.inbox.lock().unwrap();
            if let (Some(inbox), Some(message)) = (&*inbox, message) {
                let _ = inbox.send(message); // fails where the plugin reads no more
            }
            if end {
                *inbox = None;
            }
        }
    }

    pub fn cancel(&self, number: u64, status: Status) {
        if let Some(call) = self.calls.lock().unwrap().get(&number) {
            call.context.cancel(status);
        }
    }

    /// The peer takes messages of the stream again.
    pub fn room(&self, number: u64) {
        if let Some(call) = self.calls.lock().unwrap().get(&number) {
            call.room.notify_one();
        }
    }

    /// Begin no more calls, and wait for those that run, then cancel what is left.
    pub async fn drain(&self, patience: Duration) {
        self.host.0.draining.store(true, Relaxed);
        if (tokio::time::timeout(patience, self.none_left(false)).await).is_err() {
            for call in self.calls.lock().unwrap().values() {
                if !call.is_shutdown {
                    call.context.cancel(Status::Unavailable);
                }
            }
            let grace = Duration::from_secs(2); // for those that block their thread
            let _ = tokio::time::timeout(grace, self.none_left(false)).await;
        }
    }

    /// Returns once no call runs; `all`: not even a Shutdown, which waits for the others.
    async fn none_left(&self, all: bool) {
        let left = || (self.calls.lock().unwrap().values()).any(|call| all || !call.is_shutdown);
        while left() {
            self.one_ended.notified().await;
        }
        self.one_ended.notify_one(); // another may wait, too
    }

    /// The host is gone, or this process ends: cancel what runs, and stop the plugin, unless a
    /// Shutdown has.
    pub async fn stop(&self, reason: &str) {
        self.drain(Duration::ZERO).await;
        let patience = Duration::from_secs(10);
        let request = ShutdownRequest {
            reason: reason.to_owned(),
            ..Default::default()
        };
        if let Err(error) = self.shut_down(request, patience).await {
            log::error!("the plugin failed to shut down: {error}");
        }
        let _ = tokio::time::timeout(patience, self.none_left(true)).await;
    }

    async fn run(
        self: Arc<Self>,
        call: Arc<Call>,
        request: Request,
        inbox: Option<mpsc::UnboundedReceiver<Message>>,
    ) {
        let mut end = End {
            runner: &self,
            call: &call,
            counted: matches!(request, Request::Execute(_) | Request::ExecuteStream(_)),
            began: Instant::now(),
            outcome: None,
        };
        let is_health = matches!(request, Request::HealthCheck(_));
        let mut outcome = tokio::select! {
            biased;
            done = catch(self.answer(&call, request, inbox)) => {
                done.unwrap_or_else(|panic| self.unexpected(&format!("panicked: {panic}")))
            }
            status = call.context.ended() => {
                Outcome::failed(status, if status == Status::Unavailable { STOPPED } else { "" })
            }
        };
        if is_health && !matches!(outcome.status, Status::Ok | Status::Cancelled) {
            outcome = self.health_is(Health::Unhealthy, outcome.text);
        }
        end.outcome = Some(outcome);
    }

    async fn answer(
        &self,
        call: &Arc<Call>,
        request: Request,
        inbox: Option<mpsc::UnboundedReceiver<Message>>,
    ) -> Outcome {
        match request {
            Request::Initialize(request) => self.initialize(*request).await,
            Request::HealthCheck(request) => self.health(request).await,
            Request::Execute(params) => match self.prepare(call, params, false) {
                Ok((serving, request)) => {
                    let request_id = request.request_id().to_owned();
                    match serving.plugin.execute(request).await {
                        Ok(response) => result(response),
                        Err(error) => self.failure(&error, &request_id),
                    }
                }
                Err(refusal) => refusal,
            },
            Request::ExecuteStream(params) => match self.prepare(call, params, true) {
                Ok((serving, request)) => {
                    let request_id = request.request_id().to_owned();
                    let inbox = inbox.expect("made for every stream");
                    let stream = Stream::new(call.clone(), inbox);
                    match serving.plugin.execute_stream(request, stream).await {
                        Ok(()) => Outcome::ok(String::new()),
                        Err(error) => self.failure(&error, &request_id),
                    }
                }
                Err(refusal) => refusal,
            },
            Request::Shutdown(request) => {
                let patience = Duration::from_secs(request.timeout_seconds.into());
                self.drain(patience).await;
                let replaced = request.reason == "replaced";
                self.replaced.store(replaced, Relaxed);
                match self.shut_down(request, Duration::from_secs(3600)).await {
                    Ok(()) => Outcome::ok(r#"{"success":true}"#.to_owned()),
                    Err(error) => Outcome::failed(Status::Unknown, error),
                }
            }
        }
    }

    async fn initialize(&self, mut request: InitializeRequest) -> Outcome {
        let state = mem::replace(&mut *self.plugin.lock().unwrap(), State::Starting);
        let mut plugin = match state {
            State::New(plugin) => plugin,
            other => {
                *self.plugin.lock().unwrap() = other;
                let name = &self.name;
                let text = format!("plugin {name:?} was initialized before; start a new one");
                return Outcome::failed(Status::FailedPrecondition, text);
            }
        };
        let start = Start(self); // its end says whether this one failed, panicked, or was cancelled
        let cache = request.cache.as_ref();
        let kept = cache.map_or(&[][..], |cache| &cache.operations);
        if let Some(wrong) = (kept.iter()).find(|name| !plugin.cacheable().contains(&name.as_str()))
        {
            let name = &self.name;
            let text =
                format!("cache.operations: plugin {name:?} cannot keep results of {wrong:?}");
            return Outcome::failed(Status::InvalidArgument, text);
        }
        request.host = self.host.clone();
        let mut response = match plugin.initialize(request).await {
            Ok(response) => response,
            Err(error) => {
                let (status, text) =
                    told(&error).unwrap_or_else(|| (Status::Internal, with_causes(&error)));
                return Outcome::failed(status, text);
            }
        };
        if !response.success {
            let text = mem::take(&mut response.error);
            return Outcome::failed(Status::FailedPrecondition, text);
        }
        let operations = match offered(&mut response) {
            Ok(operations) => operations,
            Err(text) => return Outcome::failed(Status::Internal, text),
        };
        if operations.is_empty() {
            log::warn!(
                "plugin {:?} offers no operation: nothing can be called",
                self.name
            );
        }
        if response.plugin_version.is_empty() {
            response.plugin_version = self.version.clone();
        }
        *self.plugin.lock().unwrap() = State::Serving(Arc::new(Serving { plugin, operations }));
        drop(start);
        Outcome::ok(serde_json::to_string(&response).expect("strings and numbers"))
    }

    async fn health(&self, request: HealthCheckRequest) -> Outcome {
        match self.serving() {
            None => self.health_is(Health::Unhealthy, "the plugin is not initialized".into()),
            Some(serving) => match serving.plugin.health_check(request).await {
                Ok(mut health) => {
                    health.message = logs::hide(&health.message);
                    self.health_outcome(health)
                }
                Err(error) => self.health_is(Health::Unhealthy, logs::hide(&with_causes(&error))),
            },
        }
    }

    fn health_is(&self, status: Health, message: String) -> Outcome {
        self.health_outcome(HealthCheckResponse {
            status,
            message,
            ..Default::default()
        })
    }

    fn health_outcome(&self, health: HealthCheckResponse) -> Outcome {
        #[derive(Serialize)]
        struct WithMetrics {
            #[serde(flatten)]
            health: HealthCheckResponse,
            metrics: MetricsNow,
        }
        let metrics = self.metrics();
        let text = serde_json::to_string(&WithMetrics { health, metrics });
        Outcome::ok(text.expect("strings and numbers"))
    }

    /// Everything that a call of an operation needs, or why it cannot be.
    fn prepare(
        &self,
        call: &Call,
        params: Params,
        stream: bool,
    ) -> Result<(Arc<Serving>, ExecuteRequest), Outcome> {
        let (name, operation) = (&self.name, &params.operation);
        let serving = self.serving().ok_or_else(|| {
            let text = format!("plugin {name:?} is not initialized");
            Outcome::failed(Status::FailedPrecondition, text)
        })?;
        let (status, text) = match serving.operations.get(operation) {
            None => {
                let mut offered: Vec<_> = serving.operations.keys().map(String::as_str).collect();
                offered.sort_unstable();
                let offered = offered.join(", ");
                let text =
                    format!("plugin {name:?} has no operation {operation:?}; it offers: {offered}");
                (Status::Unimplemented, text)
            }
            Some(forms) if stream && !forms.stream => (
                Status::Unimplemented,
                format!("operation {operation:?} is called as a single call"),
            ),
            Some(forms) if !stream && !forms.single => (
                Status::Unimplemented,
                format!("operation {operation:?} is called as a stream"),
            ),
            Some(_) if !["", "{"].contains(&first(&params.params_json)) => (
                Status::InvalidArgument,
                "params: they are no JSON object".to_owned(),
            ),
            Some(_) if !params.params_raw.is_empty() => (
                Status::InvalidArgument,
                format!("plugin {name:?} takes params as JSON, not as MessagePack"),
            ),
            Some(_) => {
                let request = ExecuteRequest {
                    operation: params.operation,
                    params_json: params.params_json,
                    metadata: params.metadata,
                    context: call.context.clone(),
                };
                return Ok((serving, request));
            }
        };
        Err(Outcome::failed(status, text))
    }

    fn serving(&self) -> Option<Arc<Serving>> {
        match &*self.plugin.lock().unwrap() {
            State::Serving(serving) => Some(serving.clone()),
            _ => None,
        }
    }

    /// The plugin's `shutdown`, once; nothing where it does not serve.
    async fn shut_down(&self, request: ShutdownRequest, patience: Duration) -> Result<(), String> {
        let state = mem::replace(&mut *self.plugin.lock().unwrap(), State::Ended);
        let serving = match state {
            State::Serving(serving) => serving,
            _ => return Ok(()),
        };
        let work = catch(serving.plugin.shutdown(request));
        match tokio::time::timeout(patience, work).await {
            Ok(Ok(Ok(response))) if response.success => Ok(()),
            Ok(Ok(Ok(response))) => Err(response.error),
            Ok(Ok(Err(error))) => Err(with_causes(&error)),
            Ok(Err(panic)) => Err(format!("shutdown panicked: {panic}")),
            Err(_) => Err(format!("shutdown took longer than {patience:?}")),
        }
    }

    fn failure(&self, error: &BoxError, request_id: &str) -> Outcome {
        match told(error) {
            Some((status, text)) => Outcome::failed(status, text),
            None => self.unexpected(&format!("{} (request {request_id})", with_causes(error))),
        }
    }

    /// Callers learn an id; the log has the rest.
    fn unexpected(&self, what: &str) -> Outcome {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Relaxed);
        let id = format!("{:x}-{number}", std::process::id());
        log::error!("error {id} in plugin {:?}: {what}", self.name);
        let text =
            format!("the plugin failed unexpectedly; its log has the cause under error id {id}");
        Outcome::failed(Status::Internal, text)
    }
}

/// Ends the call when it goes out of scope, however that comes.
struct End<'a> {
    runner: &'a Runner,
    call: &'a Call,
    counted: bool,
    began: Instant,
    outcome: Option<Outcome>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut outcome = self.outcome.take().unwrap_or_else(|| {
            if std::thread::panicking() {
                self.runner.unexpected("panicked as it was given up")
            } else {
                Outcome::failed(Status::Unavailable, STOPPED)
            }
        });
        if outcome.status != Status::Ok {
            outcome.text = logs::hide(&outcome.text);
        }
        if self.counted {
            let metrics = self.runner.host.metrics();
            metrics.requests_total.fetch_add(1, Relaxed);
            if outcome.status != Status::Ok {
                metrics.requests_failed.fetch_add(1, Relaxed);
            }
            let took = self.began.elapsed().as_micros() as u64;
            metrics.latency_us.store(took, Relaxed);
        }
        self.call.peer.close(self.call.number, outcome);
        let mut calls = self.runner.calls.lock().unwrap();
        calls.remove(&self.call.number);
        drop(calls);
        self.runner.one_ended.notify_one();
        if self.call.is_shutdown {
            self.runner.over.notify_one();
        }
    }
}

/// An Initialize that ends without having led to a plugin that serves has failed.
struct Start<'a>(&'a Runner);

impl Drop for Start<'_> {
    fn drop(&mut self) {
        let mut state = self.0.plugin.lock().unwrap();
        if matches!(*state, State::Starting) {
            *state = State::Ended;
        }
    }
}

/// The first character of JSON.
fn first(json: &str) -> &str {
    json.trim_start().get(..1).unwrap_or("")
}

fn result(response: ExecuteResponse) -> Outcome {
    if response.success {
        return Outcome {
            is_result: true,
            ..Outcome::ok(response.result_json)
        };
    }
    let status = match Status::from_code(response.error_code as u32) {
        Status::Ok => Status::Unknown,
        status => status,
    };
    Outcome::failed(status, response.error)
}

/// The table of what `response` offers, whose names alone are all made declarations.
fn offered(response: &mut InitializeResponse) -> Result<HashMap<String, Forms>, String> {
    for name in &response.supported_operations {
        if !response.operations.iter().any(|known| known.name == *name) {
            response.operations.push(Operation::new(*name));
        }
    }
    response.supported_operations.clear();
    let mut table = HashMap::new();
    for operation in &response.operations {
        let name = &operation.name;
        if !Operation::is_callable(name) {
            return Err(format!(
                "no client can call operation {name:?}: a name is 1 to 64 lower-case letters, \
                 digits and underscores, a letter first"
            ));
        }
        let forms = Forms {
            single: !operation.streaming,
            stream: operation.streaming || operation.also_streaming,
        };
        if table.insert(name.clone(), forms).is_some() {
            return Err(format!("operation {name:?} is declared twice"));
        }
    }
    Ok(table)
}
