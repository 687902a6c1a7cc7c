//! A plugin as a shared library: the table of `schemas/abi/prism_plugin.h`, for [`export!`].
//!
//! Each plugin object has a tokio runtime of its own, whose threads `destroy` joins. Nothing
//! unwinds into the host: every function that it calls catches panics.

use std::os::raw::{c_char, c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Log, Metadata, Record};
use tokio::runtime::Runtime;

use crate::call::{Outcome, Peer, Sent};
use crate::messages::Status;
use crate::runner::{Params, Request, Runner};
use crate::{logs, BackendPlugin};

const ABI: u32 = 1;
const END: u32 = 1;
const NOT_STARTED: u32 = 2;
const MSGPACK: u32 = 16;
/// Messages of a client that wait with the plugin.
const WANTED: u32 = 16;
/// For what blocks a thread when everything else has ended.
const JOIN: Duration = Duration::from_secs(5);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    data: *const c_char,
    size: usize,
}

impl Text {
    /// A copy of it.
    ///
    /// # Safety
    /// As long as this runs, the pointer is valid, or the size is 0.
    unsafe fn to_string(self) -> String {
        bytes(self.data, self.size)
    }
}

unsafe fn bytes(data: *const c_char, size: usize) -> String {
    if size == 0 {
        return String::new();
    }
    let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size);
    String::from_utf8_lossy(bytes).into_owned()
}

#[repr(C)]
pub struct RequestTable {
    size: u32,
    method: u32,
    call: u64,
    flags: u32,
    milliseconds: u32,
    operation: Text,
    body: Text,
    metadata: Text,
}

type Complete = extern "C" fn(*mut c_void, u64, u32, u32, *const c_char, usize) -> c_int;
type Send_ =
    extern "C" fn(*mut c_void, u64, u32, *const c_char, usize, *const c_char, usize) -> c_int;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct HostTable {
    abi: u32,
    size: u32,
    context: *mut c_void,
    complete: Complete,
    send: Send_,
    want: extern "C" fn(*mut c_void, u64, u32) -> c_int,
    log: extern "C" fn(*mut c_void, u32, *const c_char, usize) -> c_int,
    note: extern "C" fn(*mut c_void, *const c_char, usize) -> c_int,
}

// Safety: the header says that the host's functions may be called from any thread, at any time.
unsafe impl Send for HostTable {}
unsafe impl Sync for HostTable {}

/// What `prism_plugin_v1` returns.
#[repr(C)]
pub struct PluginTable {
    abi: u32,
    size: u32,
    threads: u32,
    reserved: u32,
    name: *const c_char,
    version: *const c_char,
    create: unsafe extern "C" fn(*const HostTable) -> *mut c_void,
    open: unsafe extern "C" fn(*mut c_void, *const RequestTable),
    data: unsafe extern "C" fn(*mut c_void, u64, u32, *const c_char, usize),
    cancel: unsafe extern "C" fn(*mut c_void, u64, u32),
    room: unsafe extern "C" fn(*mut c_void, u64),
    destroy: unsafe extern "C" fn(*mut c_void),
}

// Safety: it points to texts of the program and is never changed.
unsafe impl Sync for PluginTable {}

impl PluginTable {
    /// For [`export!`]: `name` and `version` end with a NUL.
    pub const fn new<P: BackendPlugin + Default>(
        name: &'static str,
        version: &'static str,
    ) -> Self {
        PluginTable {
            abi: ABI,
            size: std::mem::size_of::<PluginTable>() as u32,
            threads: 0,
            reserved: 0,
            name: name.as_ptr().cast(),
            version: version.as_ptr().cast(),
            create: create::<P>,
            open,
            data,
            cancel,
            room,
            destroy,
        }
    }
}

/// Export a [`BackendPlugin`](crate::BackendPlugin) that is `Default` from a `cdylib`. Its name and
/// version are the crate's, or those that are said:
///
/// ```ignore
/// prism_plugin::export!(MyBackendPlugin);
/// prism_plugin::export!(MyBackendPlugin, "my-backend", "1.0.0");
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        $crate::export!($plugin, env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    };
    ($plugin:ty, $name:expr, $version:expr) => {
        /// Prism's C interface: the table of functions, the same each time.
        #[no_mangle]
        pub extern "C" fn prism_plugin_v1() -> *const $crate::PluginTable {
            static TABLE: $crate::PluginTable =
                $crate::PluginTable::new::<$plugin>(concat!($name, "\0"), concat!($version, "\0"));
            &TABLE
        }
    };
}

/// One plugin object: what the host's pointer points to.
struct Library {
    runner: Arc<Runner>,
    runtime: Runtime,
    host: HostTable,
}

/// The host as calls see it.
struct Link(HostTable);

impl Peer for Link {
    fn close(&self, call: u64, outcome: Outcome) {
        let flags = if outcome.not_started { NOT_STARTED } else { 0 };
        let (text, status) = (outcome.text, outcome.status as u32);
        let host = &self.0;
        (host.complete)(
            host.context,
            call,
            status,
            flags,
            text.as_ptr().cast(),
            text.len(),
        );
    }

    fn send(&self, call: u64, json: &str, position: &str) -> Sent {
        let host = &self.0;
        let sent = (host.send)(
            host.context,
            call,
            0,
            json.as_ptr().cast(),
            json.len(),
            position.as_ptr().cast(),
            position.len(),
        );
        match sent {
            0 => Sent::Taken,
            1 => Sent::Full,
            3 => Sent::TooLong,
            _ => Sent::Over,
        }
    }

    fn taken(&self, call: u64, _size: u32) {
        (self.0.want)(self.0.context, call, 1);
    }

    fn note(&self, note: &str) {
        (self.0.note)(self.0.context, note.as_ptr().cast(), note.len());
    }
}

/// Run `work` for a host, to which nothing may unwind.
fn guarded<T>(what: &str, otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        // The hook has told of the panic itself.
        log::error!("{what} panicked");
        otherwise
    })
}

unsafe extern "C" fn create<P: BackendPlugin + Default>(host: *const HostTable) -> *mut c_void {
    guarded("create", std::ptr::null_mut(), || {
        if (*host).abi != ABI || ((*host).size as usize) < std::mem::size_of::<HostTable>() {
            return std::ptr::null_mut();
        }
        let host = *host;
        LogToHost::install();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("prism-plugin")
            .on_thread_start(move || LOG_HOST.with(|here| here.set(Some(host))))
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tell(
                    &host,
                    log::Level::Error,
                    &format!("cannot start its threads: {error}"),
                );
                return std::ptr::null_mut();
            }
        };
        // Its metrics come with health, as a process tells them between.
        let plugin = Box::new(P::default());
        let tasks = runtime.handle().clone();
        let runner = Runner::new(
            std::any::type_name::<P>(),
            "",
            plugin,
            Arc::new(Link(host)),
            tasks,
        );
        Box::into_raw(Box::new(Library {
            runner,
            runtime,
            host,
        }))
        .cast()
    })
}

unsafe extern "C" fn open(plugin: *mut c_void, request: *const RequestTable) {
    guarded("open", (), || {
        let library = &*plugin.cast::<Library>();
        let request = &*request;
        let (number, flags) = (request.call, request.flags);
        let refuse = |status: Status, why: &str| {
            Link(library.host).close(number, Outcome::refused(status, why));
        };
        let body = request.body.to_string();
        let parsed = match request.method {
            1 => serde_json::from_str(&body).map(Request::Initialize),
            2 => serde_json::from_str(&body).map(Request::HealthCheck),
            3 | 4 if flags & MSGPACK != 0 => {
                return refuse(
                    Status::InvalidArgument,
                    "params are taken as JSON, not as MessagePack",
                );
            }
            3 | 4 => match request.metadata.to_string() {
                text if text.is_empty() => Ok(Default::default()),
                text => serde_json::from_str(&text),
            }
            .map(|metadata| Params {
                operation: request.operation.to_string(),
                params_json: body,
                params_raw: String::new(),
                metadata,
            })
            .map(|params| match request.method {
                3 => Request::Execute(params),
                _ => Request::ExecuteStream(params),
            }),
            5 => serde_json::from_str(&body).map(Request::Shutdown),
            other => {
                return refuse(
                    Status::Unimplemented,
                    &format!("there is no method {other}"),
                );
            }
        };
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return refuse(Status::InvalidArgument, &error.to_string()),
        };
        if let Request::Initialize(request) = &parsed {
            logs::keep_secret(&request.credentials);
        }
        let left = Duration::from_millis(request.milliseconds.into());
        let deadline = (request.milliseconds > 0).then(|| Instant::now() + left);
        let ended = flags & END != 0;
        let wants = request.method == 4 && !ended;
        library.runner.open(number, parsed, deadline, ended);
        if wants {
            (library.host.want)(library.host.context, number, WANTED);
        }
    });
}

unsafe extern "C" fn data(
    plugin: *mut c_void,
    call: u64,
    flags: u32,
    body: *const c_char,
    size: usize,
) {
    guarded("data", (), || {
        let library = &*plugin.cast::<Library>();
        let end = flags & END != 0;
        let message = (!(end && size == 0)).then(|| (bytes(body, size), 0));
        library.runner.data(call, message, end);
    });
}

unsafe extern "C" fn cancel(plugin: *mut c_void, call: u64, status: u32) {
    guarded("cancel", (), || {
        let status = match Status::from_code(status) {
            Status::Ok => Status::Cancelled,
            status => status,
        };
        (*plugin.cast::<Library>()).runner.cancel(call, status);
    });
}

unsafe extern "C" fn room(plugin: *mut c_void, call: u64) {
    guarded("room", (), || (*plugin.cast::<Library>()).runner.room(call));
}

unsafe extern "C" fn destroy(plugin: *mut c_void) {
    guarded("destroy", (), || {
        let library = *Box::from_raw(plugin.cast::<Library>());
        library
            .runtime
            .block_on(library.runner.stop("the library is done with"));
        drop(library.runner);
        library.runtime.shutdown_timeout(JOIN);
    });
}

thread_local! {
    /// The host of the plugin object whose thread this is.
    static LOG_HOST: std::cell::Cell<Option<HostTable>> = const { std::cell::Cell::new(None) };
}

/// What a thread of a plugin object logs goes to its host; that of threads of the author's own to
/// standard error.
struct LogToHost;

impl LogToHost {
    fn install() {
        if log::set_logger(&LogToHost).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
            // Of this library's panics alone: standard error is the host's, and may be the proxy's.
            std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
        }
    }
}

impl Log for LogToHost {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let text = logs::hide(&record.args().to_string());
        match LOG_HOST.try_with(|here| here.get()) {
            Ok(Some(host)) => tell(&host, record.level(), &text),
            _ => eprintln!("{}: {text}", record.level()),
        }
    }

    fn flush(&self) {}
}

fn tell(host: &HostTable, level: log::Level, text: &str) {
    let level = match level {
        log::Level::Error => 3,
        log::Level::Warn => 2,
        log::Level::Info => 1,
        log::Level::Debug | log::Level::Trace => 0,
    };
    (host.log)(host.context, level, text.as_ptr().cast(), text.len());
}
