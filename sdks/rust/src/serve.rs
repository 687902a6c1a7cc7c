//! `serve`: the whole main program of a plugin process.

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::io::FromRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::session::{asked, serve_session, Ended};
use crate::{logs, BackendPlugin};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

const USAGE: &str = "Started by Prism (`command:`), a plugin needs no arguments. Otherwise:
    --connect unix:/run/prism/echo.sock   dial the proxy's socket (default: $PLUGIN_SOCKET)
    --listen unix:/run/prism/echo.sock    wait for a proxy there
    --listen tcp:127.0.0.1:20100          the same, on loopback, with --insecure";

/// How a plugin and its host meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The connected socket that the proxy which has started this process left to it.
    Inherited(i32),
    /// Dial the proxy's Unix socket, again and again.
    Connect(PathBuf),
    /// Listen on a Unix socket.
    Listen(PathBuf),
    /// Listen on TCP: loopback only.
    ListenTcp(SocketAddr),
}

impl Endpoint {
    /// What command line and environment say. An error is a sentence for the user.
    pub fn find(arguments: impl IntoIterator<Item = String>) -> Result<Endpoint, String> {
        let (mut found, mut insecure) = (None, false);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut address = || {
                arguments
                    .next()
                    .ok_or(format!("{argument} needs an address"))
            };
            let endpoint = match argument.as_str() {
                "--insecure" => {
                    insecure = true;
                    continue;
                }
                "--connect" => Endpoint::parse(&address()?, true)?,
                "--listen" => Endpoint::parse(&address()?, false)?,
                other => return Err(format!("unknown argument {other:?}")),
            };
            if found.replace(endpoint).is_some() {
                return Err("--connect and --listen exclude each other".into());
            }
        }
        match &found {
            Some(Endpoint::ListenTcp(address)) if !insecure => {
                return Err(format!("refusing to listen on tcp:{address} without TLS: say --insecure for a test on loopback, or listen on a Unix socket"));
            }
            Some(Endpoint::ListenTcp(address)) if !address.ip().is_loopback() => {
                return Err(format!(
                    "--insecure is for loopback addresses; {address} is not one"
                ));
            }
            _ => {}
        }
        let descriptor = std::env::var("PRISM_PLUGIN_FD").ok();
        // Neither children of this process nor a second `serve` may find the socket.
        std::env::remove_var("PRISM_PLUGIN_FD");
        if let Some(endpoint) = found {
            return Ok(endpoint);
        }
        if let Some(text) = descriptor {
            let number = text.parse().ok().filter(|number| *number >= 0);
            return number
                .map(Endpoint::Inherited)
                .ok_or(format!("PRISM_PLUGIN_FD={text:?} is not a file descriptor"));
        }
        match std::env::var_os("PLUGIN_SOCKET") {
            Some(path) if !path.is_empty() => Ok(Endpoint::Connect(path.into())),
            _ => Err("nothing says where the proxy is".into()),
        }
    }

    fn parse(text: &str, connect: bool) -> Result<Endpoint, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return Ok(if connect {
                Endpoint::Connect(path)
            } else {
                Endpoint::Listen(path)
            });
        }
        match text.strip_prefix("tcp:") {
            Some(_) if connect => {
                Err("plugins dial Unix sockets only; over TCP they listen".into())
            }
            Some(address) => (address.parse().map(Endpoint::ListenTcp))
                .map_err(|_| format!("{address:?} is not an address such as 127.0.0.1:20100")),
            None => Err(format!(
                "{text:?} is not an address: it begins with unix: or tcp:"
            )),
        }
    }
}

/// Serve a plugin as this process's only task. `plugin` makes the object for one host; a process
/// that dials again, or listens, makes a new one for each.
///
/// Exit status: 0 after a clean end, 1 when no host can be served, 2 for wrong arguments.
pub fn serve<P: BackendPlugin>(
    name: &str,
    version: &str,
    plugin: impl Fn() -> P + Send + Sync + 'static,
) -> ExitCode {
    let endpoint = match Endpoint::find(std::env::args().skip(1)) {
        Ok(endpoint) => endpoint,
        Err(why) => {
            eprintln!("{name} {version}, a plugin for Prism: {why}.\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    // As a task, since a worker thread of the runtime wakes what it spawns for less.
    let (name, version) = (name.to_owned(), version.to_owned());
    let serving = runtime.spawn(async move { serve_on(&name, &version, plugin, endpoint).await });
    let result = runtime.block_on(serving);
    runtime.shutdown_timeout(Duration::from_secs(1)); // a handler may block its thread
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("{error}");
            let is_usage = error.kind() == io::ErrorKind::InvalidInput;
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
        Err(_) => ExitCode::FAILURE, // a panic, of which the hook has told
    }
}

/// The same within a runtime of yours; returns when there is nothing more to serve.
///
/// # Errors
/// The endpoint cannot be used, or the proxy that has started this process refuses the plugin.
pub async fn serve_on<P: BackendPlugin>(
    name: &str,
    version: &str,
    plugin: impl Fn() -> P + Send + Sync + 'static,
    endpoint: Endpoint,
) -> io::Result<()> {
    let is_inherited = matches!(endpoint, Endpoint::Inherited(_));
    logs::install(!is_inherited);
    let (stop, stopping) = watch::channel(false);
    let signals = tokio::spawn(stop_on_signal(stop)?);
    let server = Arc::new(Server {
        name: name.to_owned(),
        version: version.to_owned(),
        plugin: Box::new(move || Box::new(plugin())),
        stopping,
    });
    let result = match endpoint {
        Endpoint::Inherited(descriptor) => server.serve_inherited(descriptor).await,
        Endpoint::Connect(path) => server.serve_dialled(&path).await,
        Endpoint::Listen(path) => {
            let listener = listen(&path)?;
            log::info!("listening on unix:{}", path.display());
            let accept = || async { Ok(listener.accept().await?.0.into_split()) };
            let result = server.serve_accepted(accept).await;
            let _ = std::fs::remove_file(&path);
            result
        }
        Endpoint::ListenTcp(address) => {
            let listener = TcpListener::bind(address).await?;
            log::info!("listening on tcp:{}", listener.local_addr()?);
            let accept = || async {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(stream.into_split())
            };
            server.serve_accepted(accept).await
        }
    };
    signals.abort();
    if is_inherited {
        logs::print_rest();
    }
    result
}

struct Server {
    name: String,
    version: String,
    plugin: Box<dyn Fn() -> Box<dyn BackendPlugin> + Send + Sync>,
    stopping: watch::Receiver<bool>,
}

impl Server {
    async fn serve<R, W>(&self, (reader, writer): (R, W)) -> Ended
    where
        R: tokio::io::AsyncRead + Unpin + Send + 'static,
        W: tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let plugin = (self.plugin)();
        let stopping = self.stopping.clone();
        serve_session(reader, writer, &self.name, &self.version, plugin, stopping).await
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    async fn stopped(&self) {
        asked(&mut self.stopping.clone()).await;
    }

    async fn serve_inherited(&self, descriptor: i32) -> io::Result<()> {
        let wrong = |error| {
            let text = format!("PRISM_PLUGIN_FD={descriptor} is not a connected socket: {error}");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        // Safety: the variable says that the descriptor is this process's and nobody's else. It is
        // closed only where it proves to be what is said.
        let inherited = ManuallyDrop::new(unsafe { StdUnixStream::from_raw_fd(descriptor) });
        inherited.peer_addr().map_err(wrong)?;
        let stream = inherited.try_clone().map_err(wrong)?; // the clone is close-on-exec
        drop(ManuallyDrop::into_inner(inherited));
        stream.set_nonblocking(true)?;
        match self.serve(UnixStream::from_std(stream)?.into_split()).await {
            Ended::Refused(why) if !self.is_stopping() => {
                Err(io::Error::new(io::ErrorKind::ConnectionRefused, why))
            }
            _ => Ok(()),
        }
    }

    async fn serve_dialled(&self, path: &Path) -> io::Result<()> {
        let mut pause = FIRST_RETRY;
        let mut told = false;
        while !self.is_stopping() {
            match UnixStream::connect(path).await {
                Err(error) => {
                    if !told {
                        log::info!("waiting for the proxy at {} ({error})", path.display());
                        told = true;
                    }
                }
                Ok(stream) => {
                    told = false;
                    log::info!(
                        "dialled {}; one plugin at a time is answered there",
                        path.display()
                    );
                    match self.serve(stream.into_split()).await {
                        Ended::Replaced => {
                            log::info!("another process has taken this one's place; ending");
                            return Ok(());
                        }
                        Ended::Over => pause = FIRST_RETRY,
                        Ended::Refused(_) if self.is_stopping() => {}
                        Ended::Refused(why) => {
                            log::error!("{why}");
                            pause = LAST_RETRY;
                        }
                    }
                }
            }
            let _ = tokio::time::timeout(pause, self.stopped()).await;
            pause = LAST_RETRY.min(pause * 2);
        }
        Ok(())
    }

    async fn serve_accepted<F, R, W>(self: &Arc<Self>, accept: impl Fn() -> F) -> io::Result<()>
    where
        F: Future<Output = io::Result<(R, W)>>,
        R: tokio::io::AsyncRead + Unpin + Send + 'static,
        W: tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut sessions = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                () = self.stopped() => break,
                Some(_) = sessions.join_next() => continue,
            };
            match accepted {
                Ok(stream) => {
                    let server = self.clone();
                    sessions.spawn(async move {
                        if let Ended::Refused(why) = server.serve(stream).await {
                            log::error!("{why}");
                        }
                    });
                }
                Err(error) => {
                    log::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(FIRST_RETRY).await; // such as: too many open files
                }
            }
        }
        while sessions.join_next().await.is_some() {}
        Ok(())
    }
}

/// Signals are handled from here on; the future says when one comes.
fn stop_on_signal(stop: watch::Sender<bool>) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        log::info!("stopping on {name}");
        let _ = stop.send(true);
        // Somebody who asks twice does not want to wait.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(0);
    })
}

/// A socket for this user alone. It gets its name only when it has its mode; a file that nobody
/// answers at is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    if StdUnixStream::connect(path).is_ok() {
        let text = format!("somebody listens on {} already", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let _ = std::fs::remove_file(&name);
    let listener = UnixListener::bind(&name)?;
    std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&name, path)?;
    Ok(listener)
}
