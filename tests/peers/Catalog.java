import java.io.File;
import java.net.URI;
import java.util.Map;
import org.apache.iceberg.CatalogProperties;
import org.apache.iceberg.Files;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

/** Apache Iceberg's REST catalog over its catalog in SQLite. Catalog FOLDER; says its port; ends with its input. */
public class Catalog {
  /** The local disk, without Hadoop. */
  public static class Local implements FileIO {
    private static File file(String location) {
      return new File(location.startsWith("file:") ? URI.create(location).getPath() : location);
    }

    @Override
    public InputFile newInputFile(String location) {
      return Files.localInput(file(location));
    }

    @Override
    public OutputFile newOutputFile(String location) {
      file(location).getParentFile().mkdirs();
      return Files.localOutput(file(location));
    }

    @Override
    public void deleteFile(String location) {
      file(location).delete();
    }
  }

  public static void main(String[] args) throws Exception {
    JdbcCatalog catalog = new JdbcCatalog();
    catalog.initialize(
        "plant",
        Map.of(
            CatalogProperties.URI, "jdbc:sqlite:" + args[0] + "/catalog.db",
            CatalogProperties.WAREHOUSE_LOCATION, "file://" + args[0] + "/warehouse",
            CatalogProperties.FILE_IO_IMPL, Local.class.getName(),
            "jdbc.schema-version", "V1"));
    Server server = new Server();
    ServerConnector connector = new ServerConnector(server);
    connector.setHost("127.0.0.1");
    server.addConnector(connector);
    ServletContextHandler context = new ServletContextHandler();
    context.addServlet(new ServletHolder(new RESTCatalogServlet(new RESTCatalogAdapter(catalog))), "/*");
    server.setHandler(context);
    server.start();
    System.out.println(connector.getLocalPort());
    while (System.in.read() >= 0) {}
    System.exit(0);
  }
}
