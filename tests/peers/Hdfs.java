import java.io.BufferedReader;
import java.io.File;
import java.io.InputStreamReader;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FileUtil;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.hdfs.MiniDFSCluster;

/**
 * A name node and a data node of Apache Hadoop in one process. Hdfs FOLDER; says {"ready": true, "port": N}; then orders, a line of JSON each:
 * {"copy": PATH, "to": FOLDER} by Hadoop's own client; a copy of before goes. Ends with its input.
 */
public class Hdfs {
  private static String text(String order, String key) {
    Matcher found = Pattern.compile("\"" + key + "\":\"([^\"]*)\"").matcher(order);
    return found.find() ? found.group(1) : "";
  }

  public static void main(String[] args) throws Exception {
    Configuration conf = new Configuration();
    conf.set(MiniDFSCluster.HDFS_MINIDFS_BASEDIR, args[0]);
    conf.setBoolean("dfs.permissions.enabled", false);
    MiniDFSCluster cluster = new MiniDFSCluster.Builder(conf).numDataNodes(1).build();
    cluster.waitActive();
    System.out.println("{\"ready\": true, \"port\": " + cluster.getNameNodePort() + "}");
    FileSystem files = cluster.getFileSystem();
    BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
    for (String order = orders.readLine(); order != null; order = orders.readLine()) {
      File to = new File(text(order, "to"));
      FileUtil.fullyDelete(to);
      Path from = new Path(text(order, "copy"));
      boolean isThere = files.exists(from) && FileUtil.copy(files, from, to, false, conf);
      System.out.println("{\"done\": \"yes\", \"there\": " + isThere + "}");
    }
    System.exit(0);
  }
}
