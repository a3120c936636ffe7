"""What waagent asks, by its own clients: the instance document, the wireserver's versions, the host plugin's."""
import json

from azurelinuxagent.common.protocol.hostplugin import HostPluginProtocol
from azurelinuxagent.common.protocol.imds import ImdsClient
from azurelinuxagent.common.protocol.wire import WireClient

WIRESERVER = "168.63.129.16"
try:
    imds = ImdsClient(WIRESERVER)
except TypeError:
    imds = ImdsClient()
print(json.dumps({"name": imds.get_compute().name}), flush=True)
WireClient(WIRESERVER).check_wire_protocol_version()
print(json.dumps({"versions": HostPluginProtocol(WIRESERVER, "c", "r").get_api_versions()}), flush=True)
