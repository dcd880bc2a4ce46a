import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Constructor;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.iceberg.CatalogProperties;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/**
 * Apache Iceberg's REST catalog of its fixtures, which vends the credentials that it is configured with, over its catalog in SQLite, with tables in S3. Vending
 * FOLDER ENDPOINT BUCKET; says its port; each line of its input, a key and a value, changes what it vends; ends with its input.
 */
public class Vending {
  @SuppressWarnings("unchecked")
  public static void main(String[] args) throws Exception {
    JdbcCatalog catalog = new JdbcCatalog();
    catalog.initialize(
        "plant",
        Map.of(
            CatalogProperties.URI, "jdbc:sqlite:" + args[0] + "/catalog.db",
            CatalogProperties.WAREHOUSE_LOCATION, "s3://" + args[2] + "/warehouse",
            CatalogProperties.FILE_IO_IMPL, "org.apache.iceberg.aws.s3.S3FileIO",
            "s3.endpoint", args[1],
            "s3.path-style-access", "true",
            "s3.access-key-id", "the-catalogs-own",
            "s3.secret-access-key", "the-catalogs-own",
            "client.region", "us-east-1",
            "jdbc.schema-version", "V1"));
    Map<String, String> vends = new ConcurrentHashMap<>(Map.of("include-credentials", "true"));
    // Both are of the package, since they are fixtures.
    Constructor<?> context =
        Class.forName("org.apache.iceberg.rest.RESTCatalogServer$CatalogContext").getDeclaredConstructors()[0];
    context.setAccessible(true);
    Constructor<?> adapter = Class.forName("org.apache.iceberg.rest.RESTServerCatalogAdapter").getDeclaredConstructors()[0];
    adapter.setAccessible(true);
    Server server = new Server();
    ServerConnector connector = new ServerConnector(server);
    connector.setHost("127.0.0.1");
    server.addConnector(connector);
    ServletContextHandler handler = new ServletContextHandler();
    RESTCatalogAdapter vending = (RESTCatalogAdapter) adapter.newInstance(context.newInstance(catalog, vends));
    handler.addServlet(new ServletHolder(new RESTCatalogServlet(vending)), "/*");
    server.setHandler(handler);
    server.start();
    System.out.println(connector.getLocalPort());
    BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
    for (String line = input.readLine(); line != null; line = input.readLine()) {
      String[] words = line.split(" ", 2);
      vends.put(words[0], words[1]);
    }
    System.exit(0);
  }
}
