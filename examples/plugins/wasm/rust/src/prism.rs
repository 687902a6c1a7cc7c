//! The interface of a WebAssembly plugin for Prism, version 1, for Rust: a trait to implement, a
//! macro to export it by, and what a plugin may ask of its host. docs/wasm.md has what is beneath.
//!
//! A function that is called is imported, and what is imported must be granted.
#![allow(dead_code)]

use std::cell::UnsafeCell;

/// Why a call failed: a gRPC status other than 0, and a sentence for the caller.
pub struct Failure {
    pub status: u8,
    pub detail: String,
}

pub const INVALID_ARGUMENT: u8 = 3;
pub const NOT_FOUND: u8 = 5;
pub const UNIMPLEMENTED: u8 = 12;

impl Failure {
    pub fn new(status: u8, detail: impl Into<String>) -> Failure {
        Failure { status, detail: detail.into() }
    }
}

/// JSON, or a failure.
pub type Answer = Result<String, Failure>;

/// One instance of the plugin. There are several, each with memory of its own.
pub trait Plugin: Sized {
    /// `settings` is `{"namespace", "config", "credentials"}`. Returns what it offers:
    /// `{"version", "operations": [...]}`.
    fn initialize(settings: &str) -> Result<(Self, String), Failure>;

    fn execute(&mut self, operation: &str, params: &str) -> Answer;

    /// Sends messages by `send`, and returns when there are no more.
    fn stream(&mut self, operation: &str, _params: &str) -> Answer {
        Err(Failure::new(UNIMPLEMENTED, format!("{operation} is no stream")))
    }

    fn health(&mut self) -> Answer {
        Ok(r#"{"status": "healthy"}"#.to_string())
    }
}

mod host {
    #[link(wasm_import_module = "prism")]
    extern "C" {
        pub fn context() -> i32;
        pub fn take(at: *mut u8, capacity: usize) -> i32;
        pub fn send(at: *const u8, size: usize) -> i32;
        pub fn receive() -> i32;
        pub fn log(level: i32, at: *const u8, size: usize);
        pub fn clock() -> i64;
        pub fn random(at: *mut u8, size: usize) -> i32;
        pub fn get(key: *const u8, key_size: usize) -> i32;
        pub fn set(key: *const u8, key_size: usize, value: *const u8, size: usize) -> i32;
        pub fn delete(key: *const u8, key_size: usize) -> i32;
        pub fn increment(key: *const u8, key_size: usize, by: i64) -> i64;
        pub fn fetch(request: *const u8, size: usize) -> i32;
    }
}

/// The host's last answer, of `size` bytes; none where that is negative.
fn taken(size: i32) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    unsafe { host::take(bytes.as_mut_ptr(), bytes.len()) };
    Some(bytes)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is known of the call, as JSON.
pub fn context() -> String {
    taken(unsafe { host::context() }).map(text).unwrap_or_default()
}

/// Sends a message of a stream; false: nobody wants more.
pub fn send(message: &str) -> bool {
    unsafe { host::send(message.as_ptr(), message.len()) == 1 }
}

/// The client's next message of a stream; none at its end.
pub fn receive() -> Option<String> {
    taken(unsafe { host::receive() }).map(text)
}

pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

pub fn log(level: Level, message: &str) {
    unsafe { host::log(level as i32, message.as_ptr(), message.len()) }
}

/// Nanoseconds since 1970.
pub fn clock() -> i64 {
    unsafe { host::clock() }
}

pub fn random(bytes: &mut [u8]) {
    unsafe { host::random(bytes.as_mut_ptr(), bytes.len()) };
}

pub fn get(key: &str) -> Option<Vec<u8>> {
    taken(unsafe { host::get(key.as_ptr(), key.len()) })
}

/// False: there is no room.
pub fn set(key: &str, value: &[u8]) -> bool {
    unsafe { host::set(key.as_ptr(), key.len(), value.as_ptr(), value.len()) == 1 }
}

pub fn delete(key: &str) -> bool {
    unsafe { host::delete(key.as_ptr(), key.len()) == 1 }
}

/// Adds to a number that all instances share, and returns the sum.
pub fn increment(key: &str, by: i64) -> i64 {
    unsafe { host::increment(key.as_ptr(), key.len(), by) }
}

/// An HTTP request and its answer, both JSON.
pub fn fetch(request: &str) -> String {
    taken(unsafe { host::fetch(request.as_ptr(), request.len()) }).map(text).unwrap_or_default()
}

/// A module has one thread, and one call at a time.
pub struct Own<T>(UnsafeCell<T>);

unsafe impl<T> Sync for Own<T> {}

impl<T> Own<T> {
    pub const fn new(value: T) -> Own<T> {
        Own(UnsafeCell::new(value))
    }

    #[allow(clippy::mut_from_ref)]
    pub fn get(&self) -> &mut T {
        unsafe { &mut *self.0.get() }
    }
}

static BUFFER: Own<Vec<u8>> = Own::new(Vec::new());
static ANSWER: Own<Vec<u8>> = Own::new(Vec::new());

/// Room for what the host calls with; it uses the last one that it got.
pub fn alloc(size: usize) -> *mut u8 {
    let buffer = BUFFER.get();
    *buffer = Vec::with_capacity(size);
    buffer.as_mut_ptr()
}

/// What the host put at `at`.
///
/// # Safety
/// The host says where and how much.
pub unsafe fn given<'a>(at: *const u8, size: usize) -> &'a str {
    std::str::from_utf8_unchecked(std::slice::from_raw_parts(at, size))
}

/// A byte of status, then the text; where it is, and how long. It stays until the next call.
pub fn answered(answer: Answer) -> u64 {
    let (status, text) = match answer {
        Ok(json) => (0, json),
        Err(failure) => (failure.status, failure.detail),
    };
    let bytes = ANSWER.get();
    bytes.clear();
    bytes.push(status);
    bytes.extend_from_slice(text.as_bytes());
    (bytes.as_ptr() as u64) << 32 | bytes.len() as u64
}

/// Exports a plugin: `export_plugin!(MyPlugin);`
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        static PLUGIN: $crate::prism::Own<Option<$plugin>> = $crate::prism::Own::new(None);

        #[no_mangle]
        pub extern "C" fn prism_abi() -> i32 {
            1
        }

        #[no_mangle]
        pub extern "C" fn prism_alloc(size: usize) -> *mut u8 {
            $crate::prism::alloc(size)
        }

        #[no_mangle]
        pub unsafe extern "C" fn prism_initialize(at: *const u8, size: usize) -> u64 {
            let made = <$plugin as $crate::prism::Plugin>::initialize($crate::prism::given(at, size));
            $crate::prism::answered(made.map(|(plugin, offers)| {
                *PLUGIN.get() = Some(plugin);
                offers
            }))
        }

        #[no_mangle]
        pub unsafe extern "C" fn prism_execute(
            at: *const u8,
            size: usize,
            params: *const u8,
            params_size: usize,
        ) -> u64 {
            let (operation, params) =
                ($crate::prism::given(at, size), $crate::prism::given(params, params_size));
            let plugin = PLUGIN.get().as_mut().unwrap();
            $crate::prism::answered($crate::prism::Plugin::execute(plugin, operation, params))
        }

        #[no_mangle]
        pub unsafe extern "C" fn prism_stream(
            at: *const u8,
            size: usize,
            params: *const u8,
            params_size: usize,
        ) -> u64 {
            let (operation, params) =
                ($crate::prism::given(at, size), $crate::prism::given(params, params_size));
            let plugin = PLUGIN.get().as_mut().unwrap();
            $crate::prism::answered($crate::prism::Plugin::stream(plugin, operation, params))
        }

        #[no_mangle]
        pub extern "C" fn prism_health() -> u64 {
            let plugin = PLUGIN.get().as_mut().unwrap();
            $crate::prism::answered($crate::prism::Plugin::health(plugin))
        }
    };
}
