"""What cloud-init's own data source for EC2 reads, by its own functions: session, version, user data, the whole tree, identity document."""
import json

from cloudinit import helpers
from cloudinit.sources import DataSourceEc2

# The hardware says that this is no machine of Amazon's, and for such cloud-init asks without a session.
DataSourceEc2.identify_platform = lambda: DataSourceEc2.CloudNames.AWS
source = DataSourceEc2.DataSourceEc2({}, None, helpers.Paths({"cloud_dir": "/run/cloud", "run_dir": "/run/cloud"}))
source.ds_cfg = {"metadata_urls": ["http://169.254.169.254"]}
read = source.crawl_metadata()
tree = read.get("meta-data") or {}
document = read.get("dynamic", {}).get("instance-identity", {}).get("document", {})
print(
    json.dumps(
        {
            "id": tree.get("instance-id"),
            "zone": tree.get("placement", {}).get("availability-zone"),
            "region": document.get("region"),
            "user-data": bool(read.get("user-data")),
        }
    )
)
