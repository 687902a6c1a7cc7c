//! Frames, and the rules of a connection as the plugin's side of it sees them; no input or output.

use std::collections::HashMap;
use std::io::Write;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::{Outcome, Sent, TOO_LONG};
use crate::logs;
use crate::messages::{InitializeRequest, Status};
use crate::runner::{Params, Request};

/// The version of the protocol.
pub(crate) const PROTOCOL: u32 = 1;
pub(crate) const HEADER: usize = 16;
/// Longest payload that this kit takes.
pub(crate) const MAX_FRAME: u32 = 16 * 1024 * 1024;
/// Of the host's HELLO.
const MAX_HELLO: u32 = 64 * 1024;
/// Bytes of DATA that it takes on a call before it gives credit.
pub(crate) const WINDOW: u32 = 256 * 1024;
/// Calls of operations at a time, and of the other methods beside them.
pub(crate) const MAX_STREAMS: usize = 1024;
const MAX_OTHERS: usize = 4;

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const DATA: u8 = 3;
const CLOSE: u8 = 4;
const CANCEL: u8 = 5;
const CREDIT: u8 = 6;
const PING: u8 = 7;
const GOAWAY: u8 = 8;
const NOTE: u8 = 9;

const END: u8 = 1;
const NOT_STARTED: u8 = 2;
const ACK: u8 = 4;
const TOO_LARGE: u8 = 8;

const JSON: u8 = 1;

/// What a frame of the host says.
#[derive(Debug)]
pub(crate) enum Event {
    Hello,
    Open {
        stream: u32,
        request: Request,
        milliseconds: u32,
        ended: bool,
    },
    Data {
        stream: u32,
        params: Params,
        end: bool,
        size: u32,
    },
    /// Cancelled by the host, or by a host that sent more than it had credit for.
    Cancel {
        stream: u32,
        status: Status,
    },
    /// There is credit again.
    Room {
        stream: u32,
    },
    /// The host's answer to a PING of ours.
    Pong {
        token: u32,
    },
    GoAway {
        reason: String,
    },
}

/// The host's side of HELLO.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct HostHello {
    codec: String,
    max_frame: u32,
    window: u32,
}

impl Default for HostHello {
    fn default() -> Self {
        HostHello {
            codec: String::new(),
            max_frame: 1024 * 1024,
            window: 256 * 1024,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

/// A call as the connection sees it.
struct Flow {
    is_stream: bool,
    is_operation: bool,
    /// The host has said END.
    ended: bool,
    cancelled: bool,
    /// Bytes that the host may still send, that have been dealt with since the last CREDIT, and
    /// that we may send.
    receive: i64,
    dealt_with: u32,
    send: i64,
    too_large: bool,
}

#[derive(Clone, Copy)]
struct Header {
    length: u32,
    stream: u32,
    kind: u8,
    flags: u8,
    codec: u8,
    method: u8,
    aux: u32,
}

/// One connection. What is to be written gathers in `output`.
pub(crate) struct Wire {
    input: Vec<u8>,
    read_to: usize,
    pub output: Vec<u8>,
    host: Option<HostHello>,
    calls: HashMap<u32, Flow>,
    /// The highest id that the host has opened.
    pub last: u32,
    trace: bool,
}

type Broken = String;

impl Wire {
    /// A connection to which HELLO is written already.
    pub fn new(name: &str, version: &str, instance: &str, trace: bool) -> Wire {
        let mut wire = Wire {
            input: Vec::new(),
            read_to: 0,
            output: Vec::new(),
            host: None,
            calls: HashMap::new(),
            last: 0,
            trace,
        };
        let hello = serde_json::json!({
            "name": name, "version": version, "instance": instance, "codecs": ["json"],
            "max_frame": MAX_FRAME, "window": WINDOW, "max_streams": MAX_STREAMS,
        });
        wire.write(head(HELLO, 0, 0, PROTOCOL), hello.to_string().as_bytes());
        wire
    }

    /// Has the host said HELLO?
    pub fn is_ready(&self) -> bool {
        self.host.is_some()
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        if self.read_to == self.input.len() {
            self.input.clear();
            self.read_to = 0;
        } else if self.read_to > 64 * 1024 {
            self.input.drain(..self.read_to);
            self.read_to = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// Has part of a frame come?
    pub fn is_within_frame(&self) -> bool {
        self.read_to < self.input.len()
    }

    /// The next event of what was received. An error says which rule the host broke.
    pub fn next(&mut self) -> Result<Option<Event>, Broken> {
        loop {
            let left = &self.input[self.read_to..];
            if left.len() < HEADER {
                return Ok(None);
            }
            let word = |at: usize| u32::from_be_bytes(left[at..at + 4].try_into().unwrap());
            let header = Header {
                length: word(0),
                stream: word(4),
                kind: left[8],
                flags: left[9],
                codec: left[10],
                method: left[11],
                aux: word(12),
            };
            self.check(&header)?;
            let end = HEADER + header.length as usize;
            if left.len() < end {
                return Ok(None);
            }
            // Out of `self` while it is read, so that what it says can be noted in `self`.
            let input = std::mem::take(&mut self.input);
            let payload = &input[self.read_to + HEADER..self.read_to + end];
            if self.trace {
                trace("<-", &header, payload);
            }
            let event = self.accept(&header, payload);
            self.input = input;
            self.read_to += end;
            if let Some(event) = event? {
                return Ok(Some(event));
            }
        }
    }

    /// What can be said of a frame before its payload is there.
    fn check(&self, header: &Header) -> Result<(), Broken> {
        let Header { kind, stream, .. } = *header;
        let longest = if self.is_ready() {
            MAX_FRAME
        } else {
            MAX_HELLO
        };
        if !(HELLO..=NOTE).contains(&kind) {
            return Err(format!("there is no frame type {kind}"));
        }
        if header.length > longest {
            let length = header.length;
            return Err(format!("a frame of {length} bytes; at most {longest}"));
        }
        if (stream == 0) == (OPEN..=CREDIT).contains(&kind) {
            return Err(format!("{} on stream {stream}", NAMES[kind as usize]));
        }
        if !self.is_ready() && kind != HELLO && kind != GOAWAY {
            return Err(format!("{} before HELLO", NAMES[kind as usize]));
        }
        if header.length > 0 {
            if matches!(kind, CANCEL | CREDIT | PING) {
                return Err(format!("{} with a payload", NAMES[kind as usize]));
            }
            if header.codec != JSON {
                return Err(format!("a payload in codec {}, not JSON", header.codec));
            }
        }
        Ok(())
    }

    fn accept(&mut self, header: &Header, payload: &[u8]) -> Result<Option<Event>, Broken> {
        let Header {
            stream, flags, aux, ..
        } = *header;
        match header.kind {
            HELLO if self.is_ready() => Err("a second HELLO".into()),
            HELLO => {
                let hello: HostHello = parse(payload)?;
                if aux != PROTOCOL || hello.codec != "json" {
                    let codec = hello.codec;
                    return Err(format!(
                        "the host chose version {aux} and codec {codec:?}; offered were {PROTOCOL} and json"
                    ));
                }
                self.host = Some(hello);
                Ok(Some(Event::Hello))
            }
            OPEN => self.accept_open(header, payload).map(Some),
            PING if flags & ACK != 0 => Ok(Some(Event::Pong { token: aux })),
            PING => {
                self.write(head(PING, 0, ACK, aux), b"");
                Ok(None)
            }
            GOAWAY => {
                let Reason { reason } = parse(payload)?;
                Ok(Some(Event::GoAway { reason }))
            }
            NOTE => Ok(None),
            _ if stream % 2 == 0 || stream > self.last => Err(format!(
                "{} for call {stream}, which was never opened",
                NAMES[header.kind as usize]
            )),
            kind => match self.calls.get_mut(&stream) {
                None => Ok(None), // it is over: the two crossed
                Some(flow) => flow.accept(kind, header, payload),
            },
        }
    }

    fn accept_open(&mut self, header: &Header, payload: &[u8]) -> Result<Event, Broken> {
        let stream = header.stream;
        if stream % 2 == 0 {
            return Err(format!("the host opened call {stream}; its ids are odd"));
        }
        if stream <= self.last {
            let last = self.last;
            return Err(format!("call {stream} after call {last}: ids only grow"));
        }
        let request = match header.method {
            1 => {
                let request: Box<InitializeRequest> = parse(payload)?;
                logs::keep_secret(&request.credentials);
                Request::Initialize(request)
            }
            2 => Request::HealthCheck(parse(payload)?),
            3 => Request::Execute(parse(payload)?),
            4 => Request::ExecuteStream(parse(payload)?),
            5 => Request::Shutdown(parse(payload)?),
            other => return Err(format!("there is no method {other}")),
        };
        let is_stream = header.method == 4;
        let is_operation = is_stream || header.method == 3;
        let most = if is_operation {
            MAX_STREAMS
        } else {
            MAX_OTHERS
        };
        if self.calls.len() >= most {
            let same = self.calls.values();
            if same.filter(|it| it.is_operation == is_operation).count() >= most {
                return Err(format!("more than {most} calls at a time"));
            }
        }
        self.last = stream;
        let ended = !is_stream || header.flags & END != 0;
        let host = self.host.as_ref().expect("check() wants HELLO first");
        let flow = Flow {
            is_stream,
            is_operation,
            ended,
            cancelled: false,
            receive: WINDOW.into(),
            dealt_with: 0,
            send: host.window.into(),
            too_large: false,
        };
        self.calls.insert(stream, flow);
        Ok(Event::Open {
            stream,
            request,
            milliseconds: header.aux,
            ended,
        })
    }

    /// The end of a call: its one CLOSE, with what [`close_payload`] made of `outcome`.
    pub fn close(&mut self, stream: u32, outcome: &Outcome, payload: &[u8]) {
        let flow = match self.calls.remove(&stream) {
            Some(flow) => flow,
            None => return, // the connection has ended
        };
        let mut flags = if outcome.not_started { NOT_STARTED } else { 0 };
        if flow.too_large && outcome.status == Status::ResourceExhausted {
            flags |= TOO_LARGE;
        }
        if self.write(head(CLOSE, stream, flags, outcome.status as u32), payload) {
            return;
        }
        let failure = Outcome::failed(Status::ResourceExhausted, TOO_LONG);
        let head = head(CLOSE, stream, flags | TOO_LARGE, failure.status as u32);
        if !self.write(head, &close_payload(&failure)) {
            self.write(head, b""); // a host that takes next to nothing
        }
    }

    /// Is there credit for a message of a stream?
    pub fn room(&self, stream: u32) -> Sent {
        match self.calls.get(&stream) {
            Some(flow) if !flow.is_stream || flow.cancelled => Sent::Over,
            Some(flow) if flow.send <= 0 => Sent::Full,
            Some(_) => Sent::Taken,
            None => Sent::Over,
        }
    }

    /// One message of a stream, which [`data_payload`] has made, if there is credit.
    pub fn send(&mut self, stream: u32, payload: &[u8]) -> Sent {
        let room = self.room(stream);
        if room != Sent::Taken {
            return room;
        }
        let taken = self.write(head(DATA, stream, 0, 0), payload);
        let flow = self.calls.get_mut(&stream).expect("looked up above");
        if !taken {
            flow.too_large = true;
            return Sent::TooLong;
        }
        flow.send -= (HEADER + payload.len()) as i64;
        Sent::Taken
    }

    /// A message of the host that cost `size` was dealt with.
    pub fn taken(&mut self, stream: u32, size: u32) {
        if let Some(flow) = self.calls.get_mut(&stream) {
            flow.dealt_with += size;
            if flow.dealt_with >= WINDOW / 2 && !flow.ended {
                let size = std::mem::take(&mut flow.dealt_with);
                flow.receive += i64::from(size);
                self.write(head(CREDIT, stream, 0, size), b"");
            }
        }
    }

    pub fn ping(&mut self, token: u32) {
        self.write(head(PING, 0, 0, token), b"");
    }

    pub fn goaway(&mut self, reason: &str) {
        let reason = serde_json::json!({ "reason": reason }).to_string();
        self.write(head(GOAWAY, 0, 0, self.last), reason.as_bytes());
    }

    /// A NOTE, which is dropped where the host takes none as long.
    pub fn note(&mut self, note: &str) {
        if self.is_ready() {
            self.write(head(NOTE, 0, 0, 0), note.as_bytes());
        }
    }

    /// Write a frame; false, and nothing written, where the host does not take one as long.
    fn write(&mut self, mut header: Header, payload: &[u8]) -> bool {
        let longest = self.host.as_ref().map_or(MAX_HELLO, |host| host.max_frame);
        if payload.len() > longest as usize {
            return false;
        }
        header.length = payload.len() as u32;
        header.codec = if payload.is_empty() { 0 } else { JSON };
        let to = &mut self.output;
        to.extend_from_slice(&header.length.to_be_bytes());
        to.extend_from_slice(&header.stream.to_be_bytes());
        to.extend_from_slice(&[header.kind, header.flags, header.codec, header.method]);
        to.extend_from_slice(&header.aux.to_be_bytes());
        to.extend_from_slice(payload);
        if self.trace {
            trace("->", &header, payload);
        }
        true
    }
}

/// The payload of a CLOSE. Made before the connection is locked: it may be long.
pub(crate) fn close_payload(outcome: &Outcome) -> Vec<u8> {
    #[derive(Serialize)]
    struct Result<'a> {
        success: bool,
        result_json: &'a str,
    }
    #[derive(Serialize)]
    struct Failure<'a> {
        error: &'a str,
        error_code: u32,
    }
    let payload = match (outcome.status, outcome.text.as_str()) {
        (Status::Ok, text) if outcome.is_result => serde_json::to_vec(&Result {
            success: true,
            result_json: if text.is_empty() { "{}" } else { text },
        }),
        (Status::Ok, text) => Ok(text.as_bytes().to_vec()),
        (_, "") => Ok(Vec::new()),
        (status, error) => serde_json::to_vec(&Failure {
            error,
            error_code: status as u32,
        }),
    };
    payload.expect("these are strings and numbers")
}

/// The payload of DATA, likewise.
pub(crate) fn data_payload(result_json: &str, position: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Message<'a> {
        result_json: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        position: &'a str,
    }
    let message = Message {
        result_json,
        position,
    };
    serde_json::to_vec(&message).expect("these are strings")
}

impl Flow {
    /// A frame of an open call, other than OPEN.
    fn accept(
        &mut self,
        kind: u8,
        header: &Header,
        payload: &[u8],
    ) -> Result<Option<Event>, Broken> {
        let Header {
            stream, flags, aux, ..
        } = *header;
        match kind {
            CLOSE => Err(format!("CLOSE of call {stream}, which the plugin closes")),
            CANCEL if self.cancelled => Ok(None),
            CANCEL => {
                self.cancelled = true;
                let status = match Status::from_code(aux) {
                    Status::Ok => Status::Cancelled, // nobody's, and a call that is given up is no success
                    status => status,
                };
                Ok(Some(Event::Cancel { stream, status }))
            }
            CREDIT => {
                let had = self.send;
                self.send += i64::from(aux);
                if self.send > i64::from(u32::MAX) {
                    return Err(format!("call {stream} has credit above 2^32 - 1"));
                }
                let room = had <= 0 && self.send > 0;
                Ok(room.then(|| Event::Room { stream }))
            }
            _ if self.cancelled => Ok(None), // DATA that was under way
            _ if self.ended => Err(format!(
                "DATA for call {stream}, for which there is no more"
            )),
            _ => {
                let size = HEADER as u32 + header.length;
                let has_credit = self.receive > 0;
                self.receive -= i64::from(size);
                if !has_credit {
                    self.cancelled = true;
                    let status = Status::Cancelled;
                    return Ok(Some(Event::Cancel { stream, status }));
                }
                self.ended = flags & END != 0;
                Ok(Some(Event::Data {
                    stream,
                    params: parse(payload)?,
                    end: self.ended,
                    size,
                }))
            }
        }
    }
}

fn head(kind: u8, stream: u32, flags: u8, aux: u32) -> Header {
    Header {
        length: 0,
        stream,
        kind,
        flags,
        codec: 0,
        method: 0,
        aux,
    }
}

/// A payload as `T`. No payload is the message with all defaults; of a key that comes twice the
/// last one counts, which serde takes for an error and a `Value` does not.
fn parse<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, Broken> {
    if payload.is_empty() {
        return Ok(T::default());
    }
    // serde would take an array for a struct, field by field.
    if payload.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err("a payload is no JSON object".into());
    }
    serde_json::from_slice(payload).or_else(|error| {
        (serde_json::from_slice::<Value>(payload))
            .and_then(serde_json::from_value)
            .map_err(|_| format!("a payload does not fit: {error}"))
    })
}

const NAMES: [&str; 10] = [
    "", "HELLO", "OPEN", "DATA", "CLOSE", "CANCEL", "CREDIT", "PING", "GOAWAY", "NOTE",
];

const METHODS: [&str; 6] = [
    "",
    "Initialize",
    "HealthCheck",
    "Execute",
    "ExecuteStream",
    "Shutdown",
];

/// Write a frame to standard error, with credentials blanked.
fn trace(direction: &str, header: &Header, payload: &[u8]) {
    let Header {
        stream, flags, aux, ..
    } = header;
    let name = NAMES[header.kind as usize];
    let method = match METHODS.get(header.method as usize) {
        Some(method) if header.kind == OPEN => method,
        _ => "",
    };
    let mut text = String::from_utf8_lossy(payload).into_owned();
    if method == "Initialize" {
        text = match serde_json::from_slice::<Value>(payload) {
            Ok(mut value) => {
                if let Some(credentials) = value["credentials"].as_object_mut() {
                    (credentials.values_mut()).for_each(|secret| *secret = "***".into());
                }
                value.to_string()
            }
            Err(_) => "(no JSON)".into(),
        };
    }
    let text = logs::cut(logs::hide(&text), 2000);
    let line =
        format!("{direction} {name} {method} stream={stream} flags={flags} aux={aux} {text}");
    let _ = writeln!(std::io::stderr(), "{line}"); // in one piece
}

/// The golden vectors of `schemas/vectors`, as this kit's side reads and writes them.
#[cfg(test)]
mod tests {
    use serde_json::{json, Map};

    use super::*;

    const HELLO_OF_HOST: &str = r#"{"codec":"json","window":262144,"max_frame":1048576}"#;

    fn cases(file: &str) -> Vec<Value> {
        let path = format!(
            "{}/../../schemas/vectors/{file}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{path} is missing"));
        let vectors: Value = serde_json::from_str(&text).unwrap();
        vectors["cases"].as_array().unwrap().clone()
    }

    fn unhex(text: &Value) -> Vec<u8> {
        let text = text.as_str().unwrap();
        let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    fn offered() -> Wire {
        let mut wire = Wire::new("x", "1", "", false);
        wire.output.clear();
        wire
    }

    fn ready() -> Wire {
        let mut wire = offered();
        let mut hello = vec![
            0,
            0,
            0,
            HELLO_OF_HOST.len() as u8,
            0,
            0,
            0,
            0,
            1,
            0,
            1,
            0,
            0,
            0,
            0,
            1,
        ];
        hello.extend_from_slice(HELLO_OF_HOST.as_bytes());
        assert_eq!(
            feed(&mut wire, &hello, 1),
            Ok(vec![json!({"event": "Hello"})])
        );
        wire
    }

    /// What `wire` says of bytes that come `portion` at a time.
    fn feed(wire: &mut Wire, bytes: &[u8], portion: usize) -> Result<Vec<Value>, Broken> {
        let mut events = Vec::new();
        for part in bytes.chunks(portion.max(1)) {
            wire.receive(part);
            while let Some(event) = wire.next()? {
                events.push(seen(event));
            }
        }
        Ok(events)
    }

    /// Of both sides, what this kit tells: the rest of the vectors' events is its own affair.
    fn seen(event: Event) -> Value {
        match event {
            Event::Hello => json!({"event": "Hello"}),
            Event::Open {
                stream,
                request,
                milliseconds,
                ended,
            } => {
                let (method, message) = message(&request);
                json!({"event": "Open", "stream": stream, "method": method, "message": message,
                       "deadline_ms": milliseconds, "end": ended})
            }
            Event::Data {
                stream,
                params,
                end,
                size,
            } => json!({
                "event": "Data", "stream": stream, "message": fields(&params), "end": end,
                "size": size}),
            Event::Cancel { stream, status } => {
                json!({"event": "Cancel", "stream": stream, "status": status as u32})
            }
            Event::Room { stream } => json!({"event": "Credit", "stream": stream}),
            Event::Pong { token } => json!({"event": "Ping", "token": token, "ack": true}),
            Event::GoAway { reason } => json!({"event": "GoAway", "reason": reason}),
        }
    }

    fn message(request: &Request) -> (&'static str, Value) {
        match request {
            Request::Initialize(it) => {
                let mut found = Map::new();
                found.insert("namespace".into(), json!(it.namespace));
                found.insert("backend_type".into(), json!(it.backend_type));
                found.insert("config_json".into(), json!(it.config_json));
                found.insert("credentials".into(), json!(it.credentials));
                if let Some(cache) = &it.cache {
                    let cache = json!({"operations": cache.operations, "max_bytes": cache.max_bytes,
                        "ttl_seconds": cache.ttl_seconds, "write_through": cache.write_through});
                    found.insert("cache".into(), cache);
                }
                let can = &it.capabilities;
                if can.supports_metrics_push {
                    let can =
                        json!({"supports_metrics_push": true, "proxy_version": can.proxy_version});
                    found.insert("capabilities".into(), can);
                }
                ("INITIALIZE", without_defaults(found))
            }
            Request::HealthCheck(it) => {
                let mut found = Map::new();
                if let Some(id) = &it.connection_id {
                    found.insert("connection_id".into(), json!(id));
                }
                ("HEALTH_CHECK", Value::Object(found))
            }
            Request::Execute(it) => ("EXECUTE", fields(it)),
            Request::ExecuteStream(it) => ("EXECUTE_STREAM", fields(it)),
            Request::Shutdown(it) => {
                let found = json!({"timeout_seconds": it.timeout_seconds, "reason": it.reason});
                (
                    "SHUTDOWN",
                    without_defaults(found.as_object().unwrap().clone()),
                )
            }
        }
    }

    fn fields(it: &Params) -> Value {
        let found = json!({"operation": it.operation, "params_json": it.params_json,
                           "params_raw": it.params_raw, "metadata": it.metadata});
        without_defaults(found.as_object().unwrap().clone())
    }

    fn without_defaults(mut found: Map<String, Value>) -> Value {
        found.retain(|_, value| ![json!(""), json!({}), json!(0)].contains(value));
        Value::Object(found)
    }

    /// An event of the vectors in the words of `seen`; `None` where the kit says nothing of it.
    fn expected(event: &Value) -> Option<Value> {
        let mut event = event.as_object().unwrap().clone();
        match event["event"].as_str().unwrap() {
            "Hello" => return Some(json!({"event": "Hello"})),
            "Ping" if event["ack"] == false => return None,
            "Credit" => return None, // had credit before
            "GoAway" => drop(event.remove("last_stream")),
            "Cancel" => {
                let code = ["", "CANCELLED", "UNKNOWN", "", "DEADLINE_EXCEEDED"];
                let code = code.iter().position(|name| event["status"] == *name);
                event.insert("status".into(), json!(code.unwrap()));
            }
            _ => {}
        }
        Some(Value::Object(event))
    }

    #[test]
    fn frames_of_the_host_are_read_whole_and_byte_by_byte() {
        let mut tried = 0;
        for case in cases("frames-json")
            .iter()
            .filter(|case| case["sender"] == "host")
        {
            for portion in [usize::MAX, 1, 7] {
                let mut wire = ready();
                for before in case["before"].as_array().unwrap() {
                    feed(&mut wire, &unhex(&before["hex"]), usize::MAX).unwrap();
                }
                let events = feed(&mut wire, &unhex(&case["hex"]), portion);
                let event = expected(&case["event"]);
                assert_eq!(events, Ok(Vec::from_iter(event)), "{}", case["name"]);
                tried += 1;
            }
        }
        assert!(tried >= 42, "{tried}");
    }

    #[test]
    fn frames_of_the_plugin_say_what_the_vectors_say() {
        let mut tried = 0;
        for case in cases("frames-json")
            .iter()
            .filter(|case| case["sender"] == "plugin")
        {
            let mut wire = ready();
            for before in case["before"].as_array().unwrap() {
                feed(&mut wire, &unhex(&before["hex"]), usize::MAX).unwrap();
            }
            wire.output.clear();
            let event = &case["event"];
            let message = &event["message"];
            match event["event"].as_str().unwrap() {
                "Data" => {
                    let result = message["result_json"].as_str().unwrap();
                    assert_eq!(wire.send(1, &data_payload(result, "")), Sent::Taken);
                }
                "Close" if message["result_raw"].is_string() => continue, // MessagePack
                "Close" => {
                    let status = Status::from_code(unhex(&case["hex"])[15].into());
                    let text = match status {
                        Status::Ok => message["result_json"].as_str().map(str::to_owned),
                        _ => Some(message["error"].as_str().unwrap_or("").to_owned()),
                    };
                    let outcome = Outcome {
                        is_result: message["result_json"].is_string(),
                        not_started: event["not_started"] == true,
                        ..Outcome::failed(status, text.unwrap_or_else(|| message.to_string()))
                    };
                    wire.close(1, &outcome, &close_payload(&outcome));
                }
                "GoAway" => wire.goaway(event["reason"].as_str().unwrap()),
                "Note" => {
                    let mut note = event.as_object().unwrap().clone();
                    note.remove("event");
                    wire.note(&Value::Object(note).to_string());
                }
                "Ping" => drop(feed(&mut wire, &unhex_ping(), 1)),
                other => panic!("{other}"),
            }
            let wanted = unhex(&case["hex"]);
            assert_eq!(
                wire.output[4..16],
                wanted[4..16],
                "{}: its header",
                case["name"]
            );
            let payload =
                |bytes: &[u8]| serde_json::from_slice(&bytes[16..]).unwrap_or(Value::Null);
            assert_eq!(
                defaults_out(payload(&wire.output)),
                defaults_out(payload(&wanted)),
                "{}",
                case["name"]
            );
            tried += 1;
        }
        assert!(tried >= 12, "{tried}");
    }

    fn unhex_ping() -> Vec<u8> {
        unhex(&json!("000000000000000007000000deadbeef"))
    }

    fn defaults_out(mut value: Value) -> Value {
        if let Some(found) = value.as_object_mut() {
            found.retain(|_, value| !value.is_null());
        }
        value
    }

    #[test]
    fn odd_bytes_are_accepted() {
        for case in cases("tolerance") {
            for portion in [usize::MAX, 1] {
                let events = feed(&mut ready(), &unhex(&case["hex"]), portion);
                let wanted = case["events"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(expected);
                assert_eq!(
                    events,
                    Ok(wanted.collect()),
                    "{}: {}",
                    case["name"],
                    case["why"]
                );
            }
        }
    }

    #[test]
    fn broken_rules_end_the_connection() {
        let mut tried = 0;
        let mine = |case: &&Value| case["to"] == "plugin" && case["codec"] == "json";
        for case in cases("errors").iter().filter(mine) {
            for portion in [usize::MAX, 1] {
                let mut wire = if case["state"] == "ready" {
                    ready()
                } else {
                    offered()
                };
                let read = feed(&mut wire, &unhex(&case["hex"]), portion);
                // … or the end of file, which follows, comes within a frame
                let broken = read.is_err() || wire.is_within_frame();
                assert!(
                    broken,
                    "{}: {}, but read {read:?}",
                    case["name"], case["why"]
                );
                tried += 1;
            }
        }
        assert!(tried >= 50, "{tried}");
    }

    #[test]
    fn conversations_are_understood() {
        for case in cases("conversations")
            .iter()
            .filter(|case| case["codec"] == "json")
        {
            for portion in [usize::MAX, 1] {
                let mut wire = offered();
                for step in case["steps"].as_array().unwrap() {
                    let events = step["events"].as_array().unwrap();
                    if step["sender"] == "host" {
                        let wanted = events.iter().filter_map(expected).collect();
                        let read = feed(&mut wire, &unhex(&step["hex"]), portion);
                        assert_eq!(read, Ok(wanted), "{}", case["name"]);
                    } else {
                        for event in events.iter().filter(|event| event["event"] == "Close") {
                            let stream = event["stream"].as_u64().unwrap() as u32;
                            let outcome = Outcome::ok("{}".into());
                            wire.close(stream, &outcome, &close_payload(&outcome));
                        }
                    }
                }
                assert!(wire.calls.is_empty(), "{}", case["name"]);
            }
        }
    }

    fn stream_of(window: u32) -> Wire {
        let mut wire = ready();
        wire.host.as_mut().unwrap().window = window;
        let open = json!("000000020000000102000104000000007b7d"); // ExecuteStream 1, more to come
        feed(&mut wire, &unhex(&open), usize::MAX).unwrap();
        wire.output.clear();
        wire
    }

    #[test]
    fn a_stream_waits_for_credit() {
        let mut wire = stream_of(64);
        let payload = data_payload("1", ""); // 19 bytes, so 35 of credit
        assert_eq!(wire.send(1, &payload), Sent::Taken);
        assert_eq!(wire.send(1, &payload), Sent::Taken); // above 0, so it may
        assert_eq!(wire.send(1, &payload), Sent::Full);
        let credit = |size: u32| {
            let mut frame = unhex(&json!("00000000000000010600000000000000"));
            frame[12..].copy_from_slice(&size.to_be_bytes());
            frame
        };
        assert_eq!(feed(&mut wire, &credit(6), 16), Ok(vec![])); // 0 is not above 0
        assert_eq!(wire.send(1, &payload), Sent::Full);
        let room = json!({"event": "Credit", "stream": 1});
        assert_eq!(feed(&mut wire, &credit(1), 16), Ok(vec![room]));
        assert_eq!(wire.send(1, &payload), Sent::Taken);
        assert!(feed(&mut wire, &credit(u32::MAX), 16).unwrap().len() == 1);
        assert!(
            feed(&mut wire, &credit(u32::MAX), 16).is_err(),
            "above 2^32 - 1"
        );
    }

    #[test]
    fn credit_is_given_back_and_an_overrun_ends_the_call() {
        let mut wire = stream_of(64);
        let mut data = unhex(&json!("00000000000000010300010000000000"));
        data[..4].copy_from_slice(&100_000_u32.to_be_bytes());
        data.extend(format!("{{\"params_json\":\"{}\"}}", "x".repeat(99_982)).into_bytes());
        assert_eq!(data.len(), 100_016);
        for _ in 0..3 {
            assert_eq!(
                feed(&mut wire, &data, usize::MAX).unwrap()[0]["event"],
                "Data"
            );
        }
        wire.taken(1, 100_016);
        assert!(wire.output.is_empty(), "less than half of the window");
        wire.taken(1, 100_016);
        let credit = json!("00000000000000010600000000030d60"); // 200,032
        assert_eq!(wire.output, unhex(&credit));
        for _ in 0..2 {
            assert_eq!(
                feed(&mut wire, &data, usize::MAX).unwrap()[0]["event"],
                "Data"
            );
        }
        let over = json!({"event": "Cancel", "stream": 1, "status": Status::Cancelled as u32});
        assert_eq!(feed(&mut wire, &data, usize::MAX), Ok(vec![over]));
        assert_eq!(
            feed(&mut wire, &data, usize::MAX),
            Ok(vec![]),
            "dropped from there"
        );
    }

    #[test]
    fn an_answer_that_is_too_large_is_replaced() {
        let mut wire = ready();
        let open = json!("000000020000000102010103000000007b7d");
        feed(&mut wire, &unhex(&open), usize::MAX).unwrap();
        wire.output.clear();
        let outcome = Outcome {
            is_result: true,
            ..Outcome::ok("1".repeat(1024 * 1024))
        };
        wire.close(1, &outcome, &close_payload(&outcome));
        assert_eq!(wire.output[8..16], [CLOSE, TOO_LARGE, JSON, 0, 0, 0, 0, 8]);
        assert!(wire.output.len() < 200);
    }

    #[test]
    fn more_calls_than_were_announced_end_the_connection() {
        let mut wire = ready();
        for number in 0..=MAX_STREAMS as u32 {
            let mut open = unhex(&json!("00000000000000000201000300000000"));
            open[4..8].copy_from_slice(&(2 * number + 1).to_be_bytes());
            let read = feed(&mut wire, &open, usize::MAX);
            assert_eq!(read.is_ok(), number < MAX_STREAMS as u32, "{number}");
        }
    }
}
