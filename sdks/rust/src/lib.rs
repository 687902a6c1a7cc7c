//! Plugins for [Prism](https://github.com/prism), the data-access proxy, in Rust: as a process that
//! speaks the frame protocol ([`serve()`]), or as a shared library ([`export!`]).
//!
//! ```no_run
//! use prism_plugin::prelude::*;
//!
//! #[derive(Default)]
//! struct Greeter;
//!
//! #[async_trait]
//! impl BackendPlugin for Greeter {
//!     async fn initialize(&mut self, _: InitializeRequest) -> Result<InitializeResponse> {
//!         let greet = Operation::new("greet").idempotent().access(Access::Read);
//!         Ok(InitializeResponse { operations: vec![greet], ..Default::default() })
//!     }
//!
//!     async fn execute(&self, req: ExecuteRequest) -> Result<ExecuteResponse> {
//!         let params: serde_json::Value = req.params()?;
//!         ExecuteResponse::json(&format!("Hello, {}!", params["name"].as_str().unwrap_or("you")))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     prism_plugin::serve("greeter", "1.0.0", Greeter::default)
//! }
//! ```
//!
//! Calls run on tokio's threads, many at a time, so drivers that want tokio work as they are. A
//! handler that computes for long, or blocks, does so in [`tokio::task::spawn_blocking`].
#![warn(missing_docs)]

mod call;
mod library;
mod logs;
mod messages;
mod runner;
mod serve;
mod session;
mod wire;

pub use async_trait::async_trait;
pub use {log, serde, serde_json, tokio};

pub use call::{Context, Host, Messages, Metrics, Sender, Stream};
#[doc(hidden)]
pub use library::PluginTable;
pub use messages::{
    Access, BoxError, CacheSettings, Error, ExecuteRequest, ExecuteResponse, Health,
    HealthCheckRequest, HealthCheckResponse, InitializeRequest, InitializeResponse, Operation,
    ProxyCapabilities, Result, ShutdownRequest, ShutdownResponse, Status,
};
pub use serve::{serve, serve_on, Endpoint};

/// Everything that a plugin needs: `use prism_plugin::prelude::*;`
pub mod prelude {
    pub use crate::{
        async_trait, log, serde_json, Access, BackendPlugin, Context, Error, ExecuteRequest,
        ExecuteResponse, Health, HealthCheckRequest, HealthCheckResponse, Host, InitializeRequest,
        InitializeResponse, Operation, Result, ShutdownRequest, ShutdownResponse, Status, Stream,
    };
}

/// One backend behind one namespace.
///
/// `initialize` is called once, before everything else; then any number of calls run at a time. A
/// call that is cancelled, or whose time is up, is dropped where it awaits. What panics fails its
/// call, and no other.
#[async_trait]
pub trait BackendPlugin: Send + Sync + 'static {
    /// Read the configuration, connect, and say which operations there are. An error refuses the
    /// plugin, and the operator reads it.
    async fn initialize(&mut self, req: InitializeRequest) -> Result<InitializeResponse>;

    /// Run one operation, one of those that `initialize` named.
    async fn execute(&self, req: ExecuteRequest) -> Result<ExecuteResponse>;

    /// Run one operation that was declared `streaming` or `also_streaming`. The client's first
    /// message is `req`. Returning ends the stream, also where the client still sends.
    async fn execute_stream(&self, req: ExecuteRequest, stream: Stream) -> Result<()> {
        drop(stream);
        let text = format!("operation {:?} is no stream", req.operation);
        Err(Error::new(Status::Unimplemented, text).into())
    }

    /// The operations whose results it can keep, where the namespace has a `cache:` block
    /// ([`InitializeRequest::cache`]). One that names others refuses the plugin.
    fn cacheable(&self) -> &[&str] {
        &[]
    }

    /// How are the plugin and its backend? Called at intervals.
    async fn health_check(&self, _req: HealthCheckRequest) -> Result<HealthCheckResponse> {
        Ok(HealthCheckResponse::default())
    }

    /// Close connections. No call runs any more.
    async fn shutdown(&self, _req: ShutdownRequest) -> Result<ShutdownResponse> {
        Ok(ShutdownResponse::default())
    }
}
