package dev.prism.plugin;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.lang.reflect.Proxy;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.Channel;
import java.nio.channels.Channels;
import java.nio.channels.ClosedChannelException;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.logging.Level;
import java.util.logging.LogManager;
import java.util.logging.Logger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** How a plugin's process meets its hosts, and when it ends. */
final class Server {
    private static final Logger LOG = Logger.getLogger("prism.sdk");
    private static final long FIRST_RETRY = 100, LAST_RETRY = 5000; // milliseconds between attempts to dial
    private static final int HANDSHAKE_TIMEOUT = 30_000; // milliseconds, of TLS
    private static final int MAX_PATH = 107; // bytes of a Unix socket's path that Linux takes
    private static final String LOOPBACK = "localhost|127\\.\\d+\\.\\d+\\.\\d+|::1";
    private static final Pattern CERTIFICATE =
            Pattern.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", Pattern.DOTALL);
    private static final Map<String, Level> LEVELS = Map.of("DEBUG", Level.FINE, "INFO", Level.INFO,
            "WARNING", Level.WARNING, "ERROR", Level.SEVERE);
    private static final String USAGE = """
            Started by Prism, a plugin needs no arguments; otherwise say where its proxy is:
              --connect unix:PATH        dial the proxy's Unix socket, again and again (default: $PLUGIN_SOCKET)
              --listen ADDRESS           wait for a proxy to connect, on unix:PATH or tcp:HOST:PORT
              --tls-cert FILE --tls-key FILE --tls-client-ca FILE
                                         for tcp: certificate, its key, and the authority of proxies (PEM)
              --insecure                 TCP without TLS, on loopback only
              --log-level LEVEL          DEBUG, INFO, WARNING, ERROR (default: INFO)""";

    /** There is no way to meet a host; the message says why. */
    private static final class UsageException extends Exception {
        private static final long serialVersionUID = 1L;

        UsageException(String message) {
            super(message);
        }
    }

    private final Plugin<?> plugin;
    private final Map<String, String> options;
    private final Logs logs;
    private final Consumer<String> trace;
    private final Set<Session<?>> sessions = ConcurrentHashMap.newKeySet();
    private final CountDownLatch stopping = new CountDownLatch(1);
    private volatile ServerSocketChannel listener;
    private volatile SSLServerSocket secureListener;

    private Server(Plugin<?> plugin, Map<String, String> options, Logs logs, Consumer<String> trace) {
        this.plugin = plugin;
        this.options = options;
        this.logs = logs;
        this.trace = trace;
    }

    /** Serve until there is nothing more to serve; the status of the process. */
    static int main(Plugin<?> plugin, String[] args) {
        Logs logs = null;
        try {
            Map<String, String> options = options(args);
            if (options.containsKey("help")) {
                System.out.println(USAGE);
                return 0;
            }
            plugin.checked();
            boolean spawned = System.getenv("PRISM_PLUGIN_FD") != null && !options.containsKey("connect") && !options.containsKey("listen");
            logs = new Logs(LEVELS.get(options.getOrDefault("log-level", "INFO")), !spawned);
            LogManager.getLogManager().reset();
            Logger root = Logger.getLogger("");
            root.setLevel(logs.getLevel());
            root.addHandler(logs);
            Consumer<String> trace = "1".equals(System.getenv("PRISM_TRACE")) ? System.err::println : null;
            Server server = new Server(plugin, options, logs, trace);
            server.heedSignals();
            return server.run();
        } catch (UsageException | IllegalArgumentException error) {
            System.err.println(error.getMessage());
            return 2;
        } catch (IOException error) {
            System.err.println("cannot meet a host: " + error.getMessage());
            return 2;
        } finally {
            if (logs != null) logs.close();
        }
    }

    private static Map<String, String> options(String[] args) throws UsageException {
        Map<String, String> found = new LinkedHashMap<>();
        Set<String> known = Set.of("connect", "listen", "tls-cert", "tls-key", "tls-client-ca", "log-level");
        for (int n = 0; n < args.length; n++) {
            String[] parts = args[n].split("=", 2);
            String name = parts[0].startsWith("--") ? parts[0].substring(2) : "";
            if (name.equals("help") || name.equals("insecure")) found.put(name, "");
            else if (!known.contains(name)) throw new UsageException("unknown argument " + args[n] + "\n" + USAGE);
            else if (parts.length == 2) found.put(name, parts[1]);
            else if (++n < args.length) found.put(name, args[n]);
            else throw new UsageException(args[n - 1] + " wants a value");
        }
        if (!LEVELS.containsKey(found.getOrDefault("log-level", "INFO"))) {
            throw new UsageException("--log-level " + found.get("log-level") + ": take DEBUG, INFO, WARNING or ERROR");
        }
        boolean tls = found.keySet().stream().anyMatch(name -> name.startsWith("tls-"));
        String listen = found.get("listen");
        if (found.containsKey("connect") && listen != null) throw new UsageException("take either --connect or --listen");
        if (tls && (listen == null || !listen.startsWith("tcp:")
                || !found.keySet().containsAll(Set.of("tls-cert", "tls-key", "tls-client-ca")))) {
            throw new UsageException("--tls-cert, --tls-key and --tls-client-ca belong together, and to --listen tcp:…");
        }
        if (listen != null && listen.startsWith("tcp:") && !tls
                && !(found.containsKey("insecure") && tcp(listen)[0].matches(LOOPBACK))) {
            throw new UsageException("refusing to listen on " + listen + " without TLS: give --tls-cert, --tls-key and "
                    + "--tls-client-ca, or --insecure on a loopback address");
        }
        return found;
    }

    private static String[] tcp(String address) throws UsageException {
        String[] parts = address.startsWith("tcp:") ? address.substring(4).split(":(?=\\d{1,5}$)") : new String[0];
        if (parts.length != 2 || parts[0].isEmpty() || Integer.parseInt(parts[1]) > 65535) {
            throw new UsageException(address + " is not an address: write unix:PATH or tcp:HOST:PORT");
        }
        return new String[] {parts[0].replaceAll("^\\[|]$", ""), parts[1]};
    }

    private static Path unix(String path) throws UsageException {
        if (path.getBytes(StandardCharsets.UTF_8).length > MAX_PATH) {
            throw new UsageException("a socket's path has at most " + MAX_PATH + " bytes: " + path);
        }
        return Path.of(path);
    }

    private int run() throws IOException, UsageException {
        String listen = options.get("listen"), connect = options.get("connect");
        if (connect != null && !connect.startsWith("unix:")) {
            throw new UsageException("plugins dial Unix sockets only (unix:PATH); over TCP they listen");
        }
        if (listen != null) return listen.startsWith("unix:") ? acceptUnix(unix(listen.substring(5))) : acceptTcp(tcp(listen));
        if (connect != null) return dial(unix(connect.substring(5)));
        String descriptor = System.getenv("PRISM_PLUGIN_FD"), path = System.getenv("PLUGIN_SOCKET");
        if (descriptor != null) {
            // All that Java can use of what it inherits: the socket on standard input.
            Channel channel = System.inheritedChannel();
            if (channel instanceof SocketChannel socket) return serveInherited(socket);
            if (path == null) {
                throw new UsageException("Java cannot use the socket that Prism hands down (descriptor " + descriptor
                        + "): write `socket: PATH` beside `command:` in the namespace's `plugin:` block");
            }
        }
        if (path != null) return dial(unix(path));
        throw new UsageException("nothing says where the proxy is: use --connect or --listen, set PLUGIN_SOCKET, "
                + "or let Prism start this plugin (command: with socket:)");
    }

    // -- signals ---------------------------------------------------------------------

    /**
     * SIGTERM and SIGINT: drain, then exit with 0; a second one ends at once. By reflection, since the JDK's own way,
     * a shutdown hook, can neither choose the status nor hear of a second signal.
     */
    private void heedSignals() {
        try {
            Class<?> signal = Class.forName("sun.misc.Signal"), handler = Class.forName("sun.misc.SignalHandler");
            Object heed = Proxy.newProxyInstance(handler.getClassLoader(), new Class<?>[] {handler}, (proxy, method, args) -> {
                if (method.getName().equals("handle")) onSignal(args[0].toString());
                return switch (method.getName()) {
                    case "equals" -> proxy == args[0];
                    case "hashCode" -> System.identityHashCode(proxy);
                    default -> null;
                };
            });
            for (String name : List.of("TERM", "INT")) {
                signal.getMethod("handle", signal, handler).invoke(null, signal.getConstructor(String.class).newInstance(name), heed);
            }
        } catch (ReflectiveOperationException error) {
            LOG.log(Level.WARNING, "this runtime has no signals (module jdk.unsupported): SIGTERM ends it without a drain", error);
        }
    }

    private void onSignal(String name) {
        if (stopping.getCount() == 0) Runtime.getRuntime().halt(1);
        LOG.info("stopping on " + name);
        stopping.countDown();
        for (Session<?> session : sessions) drain(session);
        try {
            if (listener != null) listener.close();
            if (secureListener != null) secureListener.close();
        } catch (IOException error) {
            LOG.log(Level.FINE, "the listener did not close well", error);
        }
    }

    private static void drain(Session<?> session) {
        new Thread(() -> session.drain("the plugin's process was asked to stop"), "drain").start();
    }

    // -- sessions ----------------------------------------------------------------------

    private Session.Outcome serve(Session.Connection connection) {
        Session<?> session = new Session<>(plugin, connection, logs, trace);
        sessions.add(session);
        if (stopping.getCount() == 0) drain(session);
        try {
            return session.run();
        } finally {
            sessions.remove(session);
        }
    }

    private static Session.Connection over(SocketChannel socket) {
        return new Session.Connection(socket, socket, socket);
    }

    private int serveInherited(SocketChannel socket) {
        // To close it would put /dev/null in the place of standard error, to which last words go.
        Session.Outcome outcome = serve(new Session.Connection(socket, socket, () -> {
            socket.shutdownOutput();
            socket.shutdownInput();
        }));
        return outcome == Session.Outcome.REFUSED || outcome == Session.Outcome.BROKEN ? 1 : 0;
    }

    private int dial(Path path) {
        boolean spawned = System.getenv("PRISM_PLUGIN_FD") != null, told = false;
        long pause = FIRST_RETRY;
        while (stopping.getCount() > 0) {
            try (SocketChannel socket = SocketChannel.open(UnixDomainSocketAddress.of(path))) {
                LOG.info("dialled " + path + "; one plugin at a time is answered there");
                told = false;
                Session.Outcome outcome = serve(over(socket));
                if (outcome == Session.Outcome.REPLACED) {
                    LOG.info("another process has taken this one's place; ending");
                    return 0;
                }
                boolean unfit = outcome == Session.Outcome.REFUSED || outcome == Session.Outcome.BROKEN;
                if (spawned) return unfit ? 1 : 0;
                pause = unfit ? LAST_RETRY : FIRST_RETRY;
            } catch (IOException error) {
                if (!told) LOG.info("waiting for the proxy at " + path + " (" + error.getMessage() + ")");
                told = true;
            }
            try {
                if (stopping.await(pause, TimeUnit.MILLISECONDS)) break;
            } catch (InterruptedException error) {
                break;
            }
            pause = Math.min(2 * pause, LAST_RETRY);
        }
        return 0;
    }

    /** Bind so that the socket is never, not even briefly, open to others: in a directory of our own, and moved from there. */
    private int acceptUnix(Path path) throws IOException, UsageException {
        if (Files.exists(path) && !isStale(path)) throw new UsageException("cannot listen on " + path + ": it is in use");
        Path directory = Files.createTempDirectory(path.toAbsolutePath().getParent(), ".p");
        try (ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            Path made = unix(directory.resolve("s").toString());
            server.bind(UnixDomainSocketAddress.of(made));
            Files.setPosixFilePermissions(made, PosixFilePermissions.fromString("rw-------"));
            Files.move(made, path, StandardCopyOption.ATOMIC_MOVE);
            Files.delete(directory);
            LOG.info("listening on unix:" + path);
            accept(server);
            Files.deleteIfExists(path);
        } finally {
            Files.deleteIfExists(directory);
        }
        return 0;
    }

    /** A socket of ours on which nobody listens any more? */
    private static boolean isStale(Path path) throws IOException {
        boolean isSocket = ((Integer) Files.getAttribute(path, "unix:mode") & 0170000) == 0140000;
        if (!isSocket || !Files.getOwner(path).getName().equals(System.getProperty("user.name"))) return false;
        try (SocketChannel probe = SocketChannel.open(UnixDomainSocketAddress.of(path))) {
            return !probe.isConnected();
        } catch (java.net.ConnectException error) {
            return true;
        }
    }

    private int acceptTcp(String[] address) throws IOException, UsageException {
        InetSocketAddress where = new InetSocketAddress(InetAddress.getByName(address[0]), Integer.parseInt(address[1]));
        if (options.containsKey("tls-cert")) {
            SSLContext context = tls(options.get("tls-cert"), options.get("tls-key"), options.get("tls-client-ca"));
            try (SSLServerSocket server = (SSLServerSocket) context.getServerSocketFactory().createServerSocket()) {
                secureListener = server;
                server.setNeedClientAuth(true);
                server.setEnabledProtocols(new String[] {"TLSv1.3", "TLSv1.2"});
                server.bind(where);
                tellListening(server.getLocalSocketAddress());
                while (stopping.getCount() > 0) acceptSecure(server);
            }
        } else {
            try (ServerSocketChannel server = ServerSocketChannel.open().bind(where)) {
                tellListening(server.getLocalAddress());
                accept(server);
            }
        }
        return awaitSessions();
    }

    private static void tellListening(SocketAddress address) {
        InetSocketAddress at = (InetSocketAddress) address;
        String host = at.getAddress().getHostAddress();
        LOG.info("listening on tcp:" + (host.contains(":") ? "[" + host + "]" : host) + ":" + at.getPort());
    }

    private int accept(ServerSocketChannel server) throws IOException {
        listener = server;
        while (stopping.getCount() > 0) {
            try {
                SocketChannel socket = server.accept();
                new Thread(() -> serve(over(socket)), "session").start();
            } catch (ClosedChannelException error) {
                break; // by a signal
            }
        }
        return awaitSessions();
    }

    private void acceptSecure(SSLServerSocket server) throws IOException {
        SSLSocket socket;
        try {
            socket = (SSLSocket) server.accept();
        } catch (IOException error) {
            if (stopping.getCount() == 0) return;
            throw error;
        }
        new Thread(() -> {
            try (socket) {
                socket.setSoTimeout(HANDSHAKE_TIMEOUT);
                socket.setTcpNoDelay(true);
                socket.startHandshake();
                socket.setSoTimeout(0);
                serve(new Session.Connection(Channels.newChannel(socket.getInputStream()),
                        Channels.newChannel(socket.getOutputStream()), socket));
            } catch (IOException error) { // any port scanner breaks a handshake off
                LOG.warning("a TLS handshake failed: " + error.getMessage());
            }
        }, "session").start();
    }

    private int awaitSessions() {
        for (Session<?> session : sessions) session.drain("the plugin's process was asked to stop");
        return 0;
    }

    // -- TLS ------------------------------------------------------------------------------

    private static SSLContext tls(String cert, String key, String ca) throws UsageException {
        try {
            CertificateFactory reader = CertificateFactory.getInstance("X.509");
            KeyStore own = KeyStore.getInstance("PKCS12"), trusted = KeyStore.getInstance("PKCS12");
            own.load(null, null);
            trusted.load(null, null);
            Certificate[] chain = reader.generateCertificates(pem(cert)).toArray(new Certificate[0]);
            own.setKeyEntry("plugin", privateKey(key), new char[0], chain);
            int number = 0;
            for (Certificate authority : reader.generateCertificates(pem(ca))) trusted.setCertificateEntry("ca" + number++, authority);
            KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
            keys.init(own, new char[0]);
            TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            trust.init(trusted);
            SSLContext context = SSLContext.getInstance("TLS");
            context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
            return context;
        } catch (GeneralSecurityException | IOException error) {
            throw new UsageException("cannot use the TLS files (" + cert + ", " + key + ", " + ca + "): " + error.getMessage());
        }
    }

    /** The certificates of a file, which may hold a key as well. */
    private static ByteArrayInputStream pem(String file) throws IOException {
        Matcher certificate = CERTIFICATE.matcher(Files.readString(Path.of(file)));
        StringBuilder found = new StringBuilder();
        while (certificate.find()) found.append(certificate.group()).append('\n');
        return new ByteArrayInputStream(found.toString().getBytes(StandardCharsets.US_ASCII));
    }

    private static PrivateKey privateKey(String file) throws IOException, GeneralSecurityException, UsageException {
        String text = Files.readString(Path.of(file));
        String begin = "-----BEGIN PRIVATE KEY-----", end = "-----END PRIVATE KEY-----";
        if (!text.contains(begin) || !text.contains(end)) {
            throw new UsageException("cannot use the key in " + file + ": Java wants PKCS#8 without a passphrase "
                    + "(openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW)");
        }
        String body = text.substring(text.indexOf(begin) + begin.length(), text.indexOf(end));
        PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(body));
        for (String kind : List.of("EC", "RSA", "EdDSA")) {
            try {
                return KeyFactory.getInstance(kind).generatePrivate(spec);
            } catch (InvalidKeySpecException error) {
                // of another kind
            }
        }
        throw new UsageException("cannot use the key in " + file + ": it is none of EC, RSA and EdDSA");
    }
}
