//! What host and plugin say to each other: requests, responses, statuses, declarations.
//!
//! The fields are those of `schemas/prism/plugin.proto`, name by name. Every struct has defaults,
//! so that `..Default::default()` fills in what a plugin has nothing to say about.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::call::Context;
use crate::Host;

/// Any error. `?` takes every error type, and `format!("…").into()` makes one of a text.
///
/// What the caller is told depends on what is inside:
///
/// | error | status | text |
/// |---|---|---|
/// | [`Error`] | its own | its own |
/// | a text (`"…".into()`) | UNKNOWN | the text |
/// | [`serde_json::Error`] | INVALID_ARGUMENT | what serde says |
/// | any other | INTERNAL | an id, under which the log has the error |
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the methods of a plugin return.
pub type Result<T, E = BoxError> = std::result::Result<T, E>;

/// How a call ended: gRPC's statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Status {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Status {
    /// The status of that number; UNKNOWN where there is none.
    pub fn from_code(code: u32) -> Status {
        use Status::*;
        const ALL: [Status; 17] = [
            Ok,
            Cancelled,
            Unknown,
            InvalidArgument,
            DeadlineExceeded,
            NotFound,
            AlreadyExists,
            PermissionDenied,
            ResourceExhausted,
            FailedPrecondition,
            Aborted,
            OutOfRange,
            Unimplemented,
            Internal,
            Unavailable,
            DataLoss,
            Unauthenticated,
        ];
        ALL.get(code as usize).copied().unwrap_or(Unknown)
    }
}

/// An error with a status. Callers see the text: no secrets, no internals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What callers may act on.
    pub status: Status,
    /// A sentence for them.
    pub message: String,
}

impl Error {
    /// An error of this status and sentence.
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error {
            status,
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The first call, made once: what a namespace is to be.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct InitializeRequest {
    /// The namespace that this plugin object serves.
    pub namespace: String,
    /// `postgres`, `redis`, …: of the configuration.
    pub backend_type: String,
    /// The namespace's `config:` block, as JSON.
    pub config_json: String,
    /// Its `credentials:`, with the secrets filled in. They come only here.
    pub credentials: HashMap<String, String>,
    /// What the proxy can do.
    pub capabilities: ProxyCapabilities,
    /// The namespace's `cache:` block, where it has one. Refuse what you cannot do.
    pub cache: Option<CacheSettings>,
    /// Metrics and health of the plugin; keep a clone.
    #[serde(skip)]
    pub host: Host,
}

impl InitializeRequest {
    /// The configuration as `T`; an absent one is `{}`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        from_json(&self.config_json, "config")
    }
}

/// Never shows credentials.
impl fmt::Debug for InitializeRequest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.credentials.keys().collect();
        to.debug_struct("InitializeRequest")
            .field("namespace", &self.namespace)
            .field("credentials", &names)
            .finish_non_exhaustive()
    }
}

/// Of the proxy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ProxyCapabilities {
    pub supports_metrics_push: bool,
    pub supports_distributed_tracing: bool,
    pub supports_hot_reload: bool,
    pub proxy_version: String,
}

/// What results may be kept, and for how long.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct CacheSettings {
    pub operations: Vec<String>,
    pub ttl_seconds: f64,
    pub max_bytes: u64,
    pub write_through: bool,
}

/// What the plugin offers. `success` is true by default: an `Err` says that it failed.
#[derive(Clone, Debug, Serialize)]
pub struct InitializeResponse {
    #[allow(missing_docs)]
    pub success: bool,
    /// Why not, for the operator, where `success` is false.
    pub error: String,
    /// By default what the kit was told.
    pub plugin_version: String,
    /// Names alone, where there is nothing to declare. They need not be in `operations` too.
    pub supported_operations: Vec<&'static str>,
    /// What callers and the proxy may rely on.
    pub operations: Vec<Operation>,
    /// Vocabularies that the plugin speaks, such as `key_value`.
    pub groups: Vec<&'static str>,
}

impl Default for InitializeResponse {
    fn default() -> Self {
        InitializeResponse {
            success: true,
            error: String::new(),
            plugin_version: String::new(),
            supported_operations: Vec::new(),
            operations: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// The permission that callers of an operation need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    Read = 1,
    Write = 2,
    Admin = 3,
}

/// What a plugin promises about one operation:
///
/// ```
/// use prism_plugin::{Access, Operation};
/// let get = Operation::new("get").idempotent().access(Access::Read).describe("Read one key.");
/// let watch = Operation::new("watch").streaming().access(Access::Read);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Operation {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "is_default")]
    idempotent: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) streaming: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) also_streaming: bool,
    #[serde(skip_serializing_if = "is_default")]
    access: u8,
    #[serde(skip_serializing_if = "is_default")]
    cost: u32,
    #[serde(skip_serializing_if = "is_default")]
    description: String,
    #[serde(skip_serializing_if = "is_default")]
    params_schema: String,
    #[serde(skip_serializing_if = "is_default")]
    result_schema: String,
    #[serde(skip_serializing_if = "is_default")]
    stream_params_schema: String,
    #[serde(skip_serializing_if = "is_default")]
    stream_result_schema: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Operation {
    /// One that writes, is called by Execute, and is not to be repeated.
    pub fn new(name: impl Into<String>) -> Operation {
        Operation {
            name: name.into(),
            ..Default::default()
        }
    }

    /// Calling it twice equals calling it once: the proxy may repeat it.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// It is a stream, handled by `execute_stream` alone.
    pub fn streaming(mut self) -> Self {
        self.streaming = true;
        self
    }

    /// It is both: `execute`, or `execute_stream` where the client asks for a stream.
    pub fn also_streaming(mut self) -> Self {
        self.also_streaming = true;
        self
    }

    /// Without it, `Write`.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access as u8;
        self
    }

    /// What a call uses of a rate limit; without it 1.
    pub fn cost(mut self, cost: u32) -> Self {
        self.cost = cost;
        self
    }

    /// In words, for clients.
    pub fn describe(mut self, text: impl Into<String>) -> Self {
        self.description = text.into();
        self
    }

    /// JSON Schemas (2020-12) of params and result; of a stream, of each message.
    pub fn schemas(mut self, params: &serde_json::Value, result: &serde_json::Value) -> Self {
        self.params_schema = params.to_string();
        self.result_schema = result.to_string();
        self
    }

    /// The same of an `also_streaming` operation that is called as a stream.
    pub fn stream_schemas(mut self, first: &serde_json::Value, item: &serde_json::Value) -> Self {
        self.stream_params_schema = first.to_string();
        self.stream_result_schema = item.to_string();
        self
    }

    /// Can clients call it? 1 to 64 of `a-z0-9_`, a letter first.
    pub(crate) fn is_callable(name: &str) -> bool {
        name.len() <= 64
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && (name.bytes()).all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }
}

/// One call of an operation; of a stream, with the client's first message.
#[derive(Clone, Debug, Default)]
pub struct ExecuteRequest {
    /// Its name.
    pub operation: String,
    /// A JSON object, as the client sent it.
    pub params_json: String,
    /// What the proxy says of the call: `docs/protocol.md`, section 7.
    pub metadata: HashMap<String, String>,
    /// Deadline and cancellation.
    pub context: Context,
}

impl ExecuteRequest {
    /// The params as `T`. What does not fit is an error of INVALID_ARGUMENT.
    pub fn params<T: DeserializeOwned>(&self) -> Result<T, Error> {
        from_json(&self.params_json, "params")
    }

    /// Who calls, as authenticated by the proxy; empty for nobody.
    pub fn principal(&self) -> &str {
        self.metadata_text("prism-principal")
    }

    /// For your logs.
    pub fn request_id(&self) -> &str {
        self.metadata_text("prism-request-id")
    }

    /// W3C trace context, for a backend that traces.
    pub fn traceparent(&self) -> &str {
        self.metadata_text("traceparent")
    }

    /// Of a stream: the position of the last message that the client saw; empty for a new one.
    pub fn resume_after(&self) -> &str {
        self.metadata_text("prism-last-event-id")
    }

    fn metadata_text(&self, key: &str) -> &str {
        self.metadata.get(key).map_or("", String::as_str)
    }
}

/// The answer to a call.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct ExecuteResponse {
    pub success: bool,
    pub error: String,
    /// A [`Status`] as a number, where `success` is false.
    pub error_code: i32,
    /// JSON: what the client gets, byte for byte.
    pub result_json: String,
}

impl ExecuteResponse {
    /// A success with `result`, which serde makes JSON of.
    pub fn json<T: Serialize + ?Sized>(result: &T) -> Result<ExecuteResponse> {
        Ok(ExecuteResponse::raw(to_json(result)?))
    }

    /// A success with JSON that is there already.
    pub fn raw(result_json: impl Into<String>) -> ExecuteResponse {
        ExecuteResponse {
            success: true,
            result_json: result_json.into(),
            ..Default::default()
        }
    }
}

/// Asks how the plugin and its backend are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HealthCheckRequest {
    /// Of one connection to the backend.
    pub connection_id: Option<String>,
}

/// How they are; healthy by default. An `Err` counts as unhealthy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HealthCheckResponse {
    /// Degraded keeps its traffic, unhealthy loses it.
    pub status: Health,
    /// For operators.
    pub message: String,
    /// More for them.
    pub details: BTreeMap<String, String>,
}

/// See [`HealthCheckResponse`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Health {
    #[default]
    Healthy = 0,
    Degraded = 1,
    Unhealthy = 2,
}

impl Serialize for Health {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_u8(*self as u8)
    }
}

/// The last call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ShutdownRequest {
    /// What running calls were given; the kit has waited for them already.
    pub timeout_seconds: u32,
    /// For people, but for `replaced`: another process has this one's place.
    pub reason: String,
}

/// `success` is true by default.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct ShutdownResponse {
    pub success: bool,
    pub error: String,
}

impl Default for ShutdownResponse {
    fn default() -> Self {
        ShutdownResponse {
            success: true,
            error: String::new(),
        }
    }
}

/// `text` as `T`, which empty text is `{}` for.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Error> {
    let text = if text.is_empty() { "{}" } else { text };
    serde_json::from_str(text)
        .map_err(|error| Error::new(Status::InvalidArgument, format!("{what}: {error}")))
}

pub(crate) fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(Status::Internal, format!("the result is no JSON: {error}")))
}

/// The status and the sentence that callers are told of `error`, or `None` where it is not for
/// them. A text boxed by `into()` has no public type; it is known by its debugging form.
pub(crate) fn told(error: &BoxError) -> Option<(Status, String)> {
    if let Some(error) = error.downcast_ref::<Error>() {
        let wrong = error.status == Status::Ok;
        let status = if wrong { Status::Unknown } else { error.status };
        return Some((status, error.message.clone()));
    }
    let text = error.to_string();
    if error.is::<serde_json::Error>() {
        return Some((Status::InvalidArgument, text));
    }
    let is_text = error.source().is_none() && format!("{error:?}") == format!("{text:?}");
    is_text.then_some((Status::Unknown, text))
}

/// `error` and what caused it, for logs and operators.
pub(crate) fn with_causes(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
