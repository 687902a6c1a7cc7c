//! A plugin behind a socket pair, with this test as its host: one CLOSE for each call, whatever
//! happens. (Every rule of the protocol is tried by `prism plugin test`.)

use std::io::{Read, Write};
use std::os::unix::io::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use prism_plugin::prelude::*;
use prism_plugin::{serve_on, Endpoint};
use serde_json::{json, Value};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Odd {
    names: Vec<&'static str>,
    stopped: Arc<AtomicBool>,
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("within a drop");
    }
}

#[async_trait]
impl BackendPlugin for Odd {
    async fn initialize(&mut self, req: InitializeRequest) -> Result<InitializeResponse> {
        if req.config_json == "panic" {
            panic!("within initialize");
        }
        Ok(InitializeResponse {
            supported_operations: self.names.clone(),
            ..Default::default()
        })
    }

    async fn execute(&self, req: ExecuteRequest) -> Result<ExecuteResponse> {
        match req.operation.as_str() {
            "panic" => panic!("before it waits"),
            "panic_later" => {
                tokio::task::yield_now().await;
                panic!("after it has waited")
            }
            "wait" => {
                std::future::pending::<()>().await;
            }
            "drop" => {
                let _held = PanicsWhenDropped;
                std::future::pending::<()>().await;
            }
            "text" => return Err("a sentence".into()),
            "json" => {
                serde_json::from_str::<u8>("{")?;
            }
            "io" => {
                std::fs::read("/nowhere/secret-place")?;
            }
            "own" => return Err(Error::new(Status::NotFound, "not there").into()),
            "failed" => {
                return Ok(ExecuteResponse {
                    error: "said so".into(),
                    error_code: 10,
                    ..Default::default()
                })
            }
            _ => {}
        }
        Ok(ExecuteResponse::raw(req.params_json))
    }

    async fn health_check(&self, _: HealthCheckRequest) -> Result<HealthCheckResponse> {
        panic!("within health")
    }

    async fn shutdown(&self, _: ShutdownRequest) -> Result<ShutdownResponse> {
        self.stopped.store(true, SeqCst);
        Ok(ShutdownResponse::default())
    }
}

const NAMES: [&str; 11] = [
    "echo",
    "panic",
    "panic_later",
    "wait",
    "drop",
    "text",
    "json",
    "io",
    "own",
    "failed",
    "x_1",
];

/// Frame types, methods, statuses.
const CLOSE: u8 = 4;
const CANCEL: u8 = 5;
const PING: u8 = 7;
const OK: u32 = 0;
const INTERNAL: u32 = 13;

struct Host {
    socket: UnixStream,
    next: u32,
    stopped: Arc<AtomicBool>,
    serving: JoinHandle<std::io::Result<()>>,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    aux: u32,
    payload: Value,
}

impl Host {
    fn new(names: &[&'static str]) -> Host {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (names, seen) = (names.to_vec(), stopped.clone());
        let make = move || Odd {
            names: names.clone(),
            stopped: seen.clone(),
        };
        let serving = std::thread::spawn(move || {
            let endpoint = Endpoint::Inherited(theirs.into_raw_fd());
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(serve_on("odd", "1", make, endpoint))
        });
        let mut host = Host {
            socket: ours,
            next: 1,
            stopped,
            serving,
        };
        assert_eq!(host.read().payload["name"], "odd");
        host.send(1, 0, 0, 1, r#"{"codec":"json"}"#);
        host
    }

    fn ready() -> Host {
        let mut host = Host::new(&NAMES);
        let call = host.open(1, 0, "{}");
        assert_eq!(host.close_of(call).aux, OK);
        host
    }

    fn send(&mut self, kind: u8, stream: u32, method: u8, aux: u32, payload: &str) {
        let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
        frame.extend(stream.to_be_bytes());
        frame.extend([kind, 1, u8::from(!payload.is_empty()), method]);
        frame.extend(aux.to_be_bytes());
        frame.extend(payload.as_bytes());
        self.socket.write_all(&frame).unwrap();
    }

    fn open(&mut self, method: u8, milliseconds: u32, payload: &str) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.send(2, stream, method, milliseconds, payload);
        stream
    }

    fn execute(&mut self, operation: &str) -> u32 {
        let request = json!({"operation": operation, "params_json": "{\"a\":1}"});
        self.open(3, 0, &request.to_string())
    }

    fn read(&mut self) -> Frame {
        let mut header = [0; 16];
        self.socket.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(0) as usize];
        self.socket.read_exact(&mut payload).unwrap();
        Frame {
            kind: header[8],
            flags: header[9],
            stream: word(4),
            aux: word(12),
            payload: serde_json::from_slice(&payload).unwrap_or(Value::Null),
        }
    }

    /// The next CLOSE, which must be this call's.
    fn close_of(&mut self, stream: u32) -> Frame {
        loop {
            let frame = self.read();
            if frame.kind == CLOSE {
                assert_eq!(frame.stream, stream);
                return frame;
            }
        }
    }

    fn ask(&mut self, operation: &str) -> Frame {
        let call = self.execute(operation);
        self.close_of(call)
    }

    /// It goes on, and has closed nothing twice.
    fn is_well(&mut self) {
        self.send(PING, 0, 0, 77, "");
        let frame = self.read_past_notes();
        assert_eq!((frame.kind, frame.flags, frame.aux), (PING, 4, 77));
        assert_eq!(self.ask("echo").payload["result_json"], "{\"a\":1}");
    }

    fn read_past_notes(&mut self) -> Frame {
        loop {
            let frame = self.read();
            if frame.kind != 9 {
                return frame;
            }
        }
    }
}

#[test]
fn a_handler_that_panics_fails_its_call_alone() {
    let mut host = Host::ready();
    for operation in ["panic", "panic_later"] {
        let frame = host.ask(operation);
        assert_eq!(frame.aux, INTERNAL);
        let text = frame.payload["error"].as_str().unwrap();
        assert!(
            text.starts_with("the plugin failed unexpectedly; "),
            "{text}"
        );
        host.is_well();
    }
}

#[test]
fn a_cancelled_call_is_closed_once() {
    let mut host = Host::ready();
    for (operation, status) in [("wait", 1), ("drop", INTERNAL)] {
        let call = host.execute(operation);
        host.is_well();
        for _ in 0..2 {
            host.send(CANCEL, call, 0, 1, "");
        }
        assert_eq!(host.close_of(call).aux, status);
        host.send(CANCEL, call, 0, 1, "");
        host.is_well();
    }
}

#[test]
fn a_call_ends_at_its_deadline() {
    let mut host = Host::ready();
    let call = host.open(3, 20, r#"{"operation":"wait"}"#);
    assert_eq!(host.close_of(call).aux, 4);
    host.is_well();
}

#[test]
fn what_clients_are_told_of_errors() {
    let mut host = Host::ready();
    for (operation, status, text) in [
        ("text", 2, "a sentence"),
        (
            "json",
            3,
            "invalid type: map, expected u8 at line 1 column 0",
        ),
        ("own", 5, "not there"),
        ("failed", 10, "said so"),
    ] {
        let frame = host.ask(operation);
        assert_eq!((frame.aux, &frame.payload["error"]), (status, &json!(text)));
    }
    let frame = host.ask("io");
    assert_eq!(frame.aux, INTERNAL);
    assert!(!frame.payload["error"].as_str().unwrap().contains("nowhere"));
}

#[test]
fn health_that_panics_is_unhealthy() {
    let mut host = Host::ready();
    let call = host.open(2, 0, "{}");
    let frame = host.close_of(call);
    assert_eq!((frame.aux, &frame.payload["status"]), (OK, &json!(2)));
}

#[test]
fn an_initialize_that_fails_leaves_a_plugin_that_says_so() {
    for (names, config, told) in [
        (&["Get"][..], "{}", "no client can call operation \"Get\""),
        (&["echo"][..], "panic", "the plugin failed unexpectedly; "),
    ] {
        let mut host = Host::new(names);
        let call = host.open(1, 0, &json!({ "config_json": config }).to_string());
        let frame = host.close_of(call);
        let text = frame.payload["error"].as_str().unwrap();
        assert_eq!(frame.aux, INTERNAL);
        assert!(text.starts_with(told), "{text}");
        assert_eq!(host.ask("echo").aux, 9);
    }
}

#[test]
fn shutdown_lets_calls_finish_and_cancels_the_rest() {
    let mut host = Host::ready();
    let waits = host.execute("wait");
    let shutdown = host.open(5, 0, r#"{"timeout_seconds":0}"#);
    let late = host.execute("echo");
    let frame = host.close_of(late);
    assert_eq!((frame.aux, frame.flags), (14, 2), "not started");
    assert_eq!(host.close_of(waits).aux, 14);
    assert_eq!(host.close_of(shutdown).payload, json!({"success": true}));
    assert!(host.stopped.load(SeqCst));
    host.serving.join().unwrap().unwrap();
}

#[test]
fn a_host_that_is_gone_ends_the_plugin() {
    let mut host = Host::ready();
    host.execute("wait");
    host.socket.shutdown(std::net::Shutdown::Both).unwrap();
    host.serving.join().unwrap().unwrap();
    assert!(host.stopped.load(SeqCst));
}
