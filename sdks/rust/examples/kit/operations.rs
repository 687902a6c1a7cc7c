//! The operations that every kit's example has (`sdks/README.md` lists them), once for the process
//! and once for the library.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prism_plugin::prelude::*;
use prism_plugin::serde::{de::IgnoredAny, Deserialize};
use prism_plugin::tokio;
use serde_json::json;

#[derive(Default)]
pub struct Kit {
    namespace: String,
    credentials: HashMap<String, String>,
    cancelled: AtomicU64,
}

/// Counts the calls that end before they have come to an end by themselves.
struct Counted<'a>(Option<&'a AtomicU64>);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.fetch_add(1, Relaxed);
        }
    }
}

fn no_code() -> u32 {
    2
}

#[derive(Deserialize)]
#[serde(crate = "prism_plugin::serde")]
struct Fail {
    #[serde(default = "no_code")]
    code: u32,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(crate = "prism_plugin::serde")]
struct Sleep {
    seconds: f64,
}

#[derive(Deserialize)]
#[serde(crate = "prism_plugin::serde", default)]
#[derive(Default)]
struct Count {
    to: u64,
    size: usize,
}

#[derive(Deserialize)]
#[serde(crate = "prism_plugin::serde")]
struct Summand {
    n: f64,
}

#[derive(Deserialize)]
#[serde(crate = "prism_plugin::serde")]
struct Big {
    bytes: usize,
}

#[derive(Deserialize)]
#[serde(crate = "prism_plugin::serde")]
struct Line {
    message: String,
    #[serde(default)]
    level: String,
}

#[async_trait]
impl BackendPlugin for Kit {
    async fn initialize(&mut self, req: InitializeRequest) -> Result<InitializeResponse> {
        self.namespace = req.namespace;
        self.credentials = req.credentials;
        let read = |name: &str| Operation::new(name).access(Access::Read);
        let any = json!({"type": "object"});
        Ok(InitializeResponse {
            operations: vec![
                read("echo")
                    .idempotent()
                    .describe("The parameters, as they are.")
                    .schemas(&any, &any),
                read("fail"),
                read("panic"),
                read("sleep"),
                read("cancelled"),
                read("count").streaming(),
                read("sum").streaming(),
                read("big"),
                read("whoami"),
                read("secret"),
                Operation::new("log"),
            ],
            ..Default::default()
        })
    }

    async fn execute(&self, req: ExecuteRequest) -> Result<ExecuteResponse> {
        match req.operation.as_str() {
            "echo" => {
                req.params::<IgnoredAny>()?; // it is JSON
                Ok(ExecuteResponse::raw(req.params_json))
            }
            "fail" => {
                let Fail { code, message } = req.params()?;
                Err(Error::new(Status::from_code(code), message).into())
            }
            "panic" => panic!("as was asked for"),
            "sleep" => {
                let Sleep { seconds } = req.params()?;
                let mut counted = Counted(Some(&self.cancelled));
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                counted.0 = None;
                ExecuteResponse::json(&json!({}))
            }
            "cancelled" => ExecuteResponse::json(&json!({"count": self.cancelled.load(Relaxed)})),
            "big" => {
                let Big { bytes } = req.params()?;
                ExecuteResponse::json(&json!({"data": "x".repeat(bytes)}))
            }
            "whoami" => ExecuteResponse::json(&json!({
                "principal": req.principal(),
                "request_id": req.request_id(),
                "namespace": self.namespace,
                "metadata": req.metadata,
            })),
            "secret" => {
                let known = self.credentials.contains_key("password");
                ExecuteResponse::json(&json!({ "password": known }))
            }
            "log" => {
                let Line { message, level } = req.params()?;
                match level.as_str() {
                    "DEBUG" => log::debug!("{message}"),
                    "WARNING" => log::warn!("{message}"),
                    "ERROR" => log::error!("{message}"),
                    _ => log::info!("{message}"),
                }
                ExecuteResponse::json(&json!({}))
            }
            other => Err(format!("Unsupported operation: {other}").into()),
        }
    }

    async fn execute_stream(&self, req: ExecuteRequest, mut stream: Stream) -> Result<()> {
        if req.operation == "count" {
            let Count { to, size } = req.params()?;
            let padding = "x".repeat(size);
            for n in 1..=to {
                match size {
                    0 => stream.send(&json!({ "n": n })).await?,
                    _ => stream.send(&json!({"n": n, "padding": padding})).await?,
                }
            }
        } else {
            let Summand { n: mut sum } = req.params()?;
            while let Some(Summand { n }) = stream.next_as().await? {
                sum += n;
            }
            stream.send(&json!({ "sum": sum })).await?;
        }
        Ok(())
    }
}
