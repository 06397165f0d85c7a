import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;

/** Prints what a tag used each day, as a BI tool asks for it: URL USER PASSWORD TAG. */
public final class WarehouseQuery {
  public static void main(String[] args) throws Exception {
    try (Connection c = DriverManager.getConnection(args[0], args[1], args[2]);
        PreparedStatement q = c.prepareStatement(
            "SELECT \"day\", \"used\", \"unit\" FROM millrace.daily_energy WHERE \"tag\" = ? AND \"day\" >= ? ORDER BY \"day\"")) {
      q.setString(1, args[3]);
      q.setDate(2, Date.valueOf("2026-11-01"));
      try (ResultSet r = q.executeQuery()) {
        while (r.next()) {
          System.out.println(r.getDate(1) + " " + r.getDouble(2) + " " + r.getString(3));
        }
      }
    }
  }
}
