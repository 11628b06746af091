import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

/**
 * A small shop in a servlet of an embedded Tomcat, as one would write it: password checks with PBKDF2 in the thread of
 * the request.
 *
 * <p>Environment: PORT, BASE_DIR (where Tomcat may write), HASH_COST (how many times the usual work a password
 * check is). Every answer says in X-Cpu-Ns what CPU time the thread took for the servlet.
 */
public final class Shop extends HttpServlet {
    private static final long serialVersionUID = 1L;
    private static final int ITERATIONS = 80_000;
    private static final int ARTICLES = 1500;
    private static final int SHOWN = 20;
    private static final ThreadMXBean THREADS = ManagementFactory.getThreadMXBean();

    private record Article(int id, String name, int price) {}

    private record Stored(byte[] salt, int iterations, byte[] hash) {}

    private final transient Map<String, Stored> users;
    private final transient List<Article> catalogue;

    private Shop(int iterations) throws GeneralSecurityException {
        byte[] salt = new byte[16];
        new SecureRandom().nextBytes(salt);
        users = Map.of("ann", new Stored(salt, iterations, derive("secret", salt, iterations)));
        catalogue = IntStream.rangeClosed(1, ARTICLES)
                .mapToObj(id -> new Article(id, "Article " + id, id * 7919 % 10007))
                .toList();
    }

    public static void main(String[] args) throws Exception {
        int times = Integer.parseInt(System.getenv().getOrDefault("HASH_COST", "1"));
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(System.getenv("BASE_DIR"));
        tomcat.setPort(Integer.parseInt(System.getenv("PORT")));
        tomcat.setHostname("127.0.0.1");
        tomcat.getConnector().setProperty("address", InetAddress.getLoopbackAddress().getHostAddress());
        Context context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "shop", new Shop(ITERATIONS * times)).addMapping("/");
        tomcat.start();
        tomcat.getServer().await();
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
            throws ServletException, IOException {
        long began = THREADS.getCurrentThreadCpuTime();
        String content;
        int status = HttpServletResponse.SC_OK;
        switch (request.getMethod() + " " + request.getServletPath()) {
            case "POST /login" -> {
                String user = request.getParameter("user");
                String refusal = refusal(user, request.getParameter("password"));
                status = refusal == null ? HttpServletResponse.SC_OK : HttpServletResponse.SC_UNAUTHORIZED;
                content = refusal == null ? "{\"welcome\":\"" + user + "\"}" : "{\"error\":\"" + refusal + "\"}";
            }
            case "GET /browse" -> content = browse();
            case "GET /report" -> content = report();
            default -> {
                status = HttpServletResponse.SC_NOT_FOUND;
                content = "{\"error\":\"not found\"}";
            }
        }
        byte[] body = content.getBytes(StandardCharsets.UTF_8);
        response.setStatus(status);
        response.setContentType("application/json");
        response.setContentLength(body.length);
        response.setHeader("X-Cpu-Ns", Long.toString(THREADS.getCurrentThreadCpuTime() - began));
        response.getOutputStream().write(body);
    }

    /** Checks a password; an unknown user fails before any hashing. */
    private String refusal(String user, String password) throws ServletException {
        Stored stored = user == null ? null : users.get(user);
        if (stored == null) {
            return "unknown user";
        }
        try {
            byte[] given = derive(password == null ? "" : password, stored.salt(), stored.iterations());
            return MessageDigest.isEqual(given, stored.hash()) ? null : "wrong password";
        } catch (GeneralSecurityException failed) {
            throw new ServletException(failed);
        }
    }

    /** The cheapest articles: light. */
    private String browse() {
        return catalogue.stream()
                .filter(article -> article.name().startsWith("Article"))
                .sorted(Comparator.comparingInt(Article::price))
                .limit(SHOWN)
                .map(article -> "{\"id\":%d,\"name\":\"%s\",\"price\":%d}"
                        .formatted(article.id(), article.name(), article.price()))
                .collect(Collectors.joining(",", "{\"articles\":[", "]}"));
    }

    /** Waits for a slow system elsewhere: long, but next to no CPU. */
    private static String report() {
        try {
            Thread.sleep(50);
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
        return "{\"sales\":42}";
    }

    private static byte[] derive(String password, byte[] salt, int iterations) throws GeneralSecurityException {
        PBEKeySpec spec = new PBEKeySpec(password.toCharArray(), salt, iterations, 256);
        return SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256").generateSecret(spec).getEncoded();
    }
}
