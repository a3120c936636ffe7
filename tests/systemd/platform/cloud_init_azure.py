"""What cloud-init's own data source for Azure asks, by its own functions: the instance document; of the wireserver the goal state,
and what it reports."""
import json

from cloudinit.sources import DataSourceAzure
from cloudinit.sources.helpers import azure

WIRESERVER = "168.63.129.16"
try:
    # From 23.1.
    from cloudinit.sources.azure import imds

    document = imds.fetch_metadata_with_api_fallback(1)
except ImportError:
    document = DataSourceAzure.get_metadata_from_imds(
        0, DataSourceAzure.MetadataType.ALL, DataSourceAzure.IMDS_VER_WANT
    )
print(json.dumps({"name": document.get("compute", {}).get("name")}), flush=True)
shim = azure.WALinuxAgentShim(WIRESERVER)
shim.azure_endpoint_client = azure.AzureEndpointHttpClient(None)
goal = shim._fetch_goal_state_from_azure(need_certificate=False)
azure.GoalStateHealthReporter(goal, shim.azure_endpoint_client, WIRESERVER).send_ready_signal()
print(json.dumps({"reported": goal.incarnation}), flush=True)
