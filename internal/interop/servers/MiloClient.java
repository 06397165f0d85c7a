import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.cert.X509Certificate;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.eclipse.milo.opcua.sdk.client.OpcUaClient;
import org.eclipse.milo.opcua.sdk.client.api.identity.UsernameProvider;
import org.eclipse.milo.opcua.sdk.client.subscriptions.ManagedDataItem;
import org.eclipse.milo.opcua.sdk.client.subscriptions.ManagedSubscription;
import org.eclipse.milo.opcua.stack.core.Identifiers;
import org.eclipse.milo.opcua.stack.core.security.SecurityPolicy;
import org.eclipse.milo.opcua.stack.core.types.builtin.DataValue;
import org.eclipse.milo.opcua.stack.core.types.builtin.LocalizedText;
import org.eclipse.milo.opcua.stack.core.types.builtin.NodeId;
import org.eclipse.milo.opcua.stack.core.types.builtin.Variant;
import org.eclipse.milo.opcua.stack.core.types.enumerated.MessageSecurityMode;
import org.eclipse.milo.opcua.stack.core.types.enumerated.TimestampsToReturn;
import org.eclipse.milo.opcua.stack.core.util.SelfSignedCertificateBuilder;
import org.eclipse.milo.opcua.stack.core.util.SelfSignedCertificateGenerator;

/**
 * An OPC UA client on Eclipse Milo, for the gateway's own server. Arguments: URL, security policy, mode, user,
 * password, folder of the clients that the server trusts, node to read, node to watch. It makes its own certificate
 * and puts it into the folder. It writes a line for each step, then "change VALUE STATUS" for each notification,
 * until its input ends.
 */
public class MiloClient {
    static final String URI = "urn:millrace:interop:milo";

    static String text(DataValue v) {
        return v.getValue().getValue() + " " + Long.toHexString(v.getStatusCode().getValue());
    }

    public static void main(String[] args) throws Exception {
        KeyPair keys = SelfSignedCertificateGenerator.generateRsaKeyPair(2048);
        X509Certificate own = new SelfSignedCertificateBuilder(keys).setCommonName("milo").setApplicationUri(URI).build();
        Files.write(Path.of(args[5], "milo.der"), own.getEncoded());
        OpcUaClient client = OpcUaClient.create(args[0],
            endpoints -> endpoints.stream().filter(e -> e.getSecurityPolicyUri().equals(SecurityPolicy.valueOf(args[1]).getUri())
                && e.getSecurityMode() == MessageSecurityMode.valueOf(args[2])).findFirst(),
            config -> config.setApplicationName(LocalizedText.english("milo")).setApplicationUri(URI)
                .setCertificate(own).setKeyPair(keys).setIdentityProvider(new UsernameProvider(args[3], args[4])).build());
        try {
            client.connect().get(20, TimeUnit.SECONDS);
        } catch (ExecutionException e) {
            System.out.println("refused " + e.getCause().getMessage());
            System.exit(0);
        }
        System.out.println("browse " + client.getAddressSpace().browseNodes(Identifiers.ObjectsFolder).stream()
            .map(n -> n.getBrowseName().getName()).sorted().collect(Collectors.joining(" ")));
        NodeId read = NodeId.parse(args[6]);
        System.out.println("read " + text(client.readValue(0, TimestampsToReturn.Both, read).get()));
        System.out.println("write " + Long.toHexString(client.writeValue(read, DataValue.valueOnly(new Variant(1.0))).get().getValue()));
        ManagedSubscription subscription = ManagedSubscription.create(client, 100.0);
        subscription.setDefaultSamplingInterval(50.0);
        subscription.addDataChangeListener((items, values) -> {
            for (DataValue v : values) {
                System.out.println("change " + text(v));
            }
        });
        ManagedDataItem item = subscription.createDataItem(NodeId.parse(args[7]));
        if (!item.getStatusCode().isGood()) {
            System.out.println("refused " + item.getStatusCode());
        }
        while (System.in.read() >= 0) {
        }
        subscription.delete();
        client.disconnect().get(20, TimeUnit.SECONDS);
        System.exit(0);
    }
}
