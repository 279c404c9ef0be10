import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.HexFormat;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * A client with the JDK's own WebSocket: java Client URL [AUTHORITY]
 *
 * <p>Trusts only the certificate authority in the PEM file AUTHORITY, or else those that come with the JDK. Prints the
 * header of the welcome, the reply to a heartbeat, and the close code, each on a line. Exits with 1 and the reason if
 * the connection fails.
 */
final class Client implements WebSocket.Listener {
    private static final byte[] HEARTBEAT = {0, 0, 0, 1, 3, 0, 0, 0, 'b', 'e', 'a', 't'};

    private final CompletableFuture<Integer> closed = new CompletableFuture<>();
    private int messages;

    public static void main(String[] arguments) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder();
        if (arguments.length > 1) {
            builder.sslContext(trusting(Path.of(arguments[1])));
        }
        Client client = new Client();
        try {
            builder.build().newWebSocketBuilder().buildAsync(URI.create(arguments[0]), client).get(1, TimeUnit.MINUTES);
            System.out.println("closed " + client.closed.get(1, TimeUnit.MINUTES));
        } catch (ExecutionException failed) {
            System.err.println(failed.getCause());
            System.exit(1);
        }
    }

    private static SSLContext trusting(Path authority) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        try (InputStream pem = Files.newInputStream(authority)) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, factory.getTrustManagers(), null);
        return context;
    }

    /** The messages of this test are so short that each arrives as a whole. */
    @Override
    public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer bytes, boolean last) {
        byte[] message = new byte[bytes.remaining()];
        bytes.get(message);
        messages++;
        if (messages == 1) {
            System.out.println("welcome " + HexFormat.of().formatHex(message, 0, 8));
            socket.sendBinary(ByteBuffer.wrap(HEARTBEAT), true);
        } else {
            System.out.println("reply " + HexFormat.of().formatHex(message));
            socket.sendClose(WebSocket.NORMAL_CLOSURE, "");
        }
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        closed.complete(code);
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        closed.completeExceptionally(error);
    }
}
