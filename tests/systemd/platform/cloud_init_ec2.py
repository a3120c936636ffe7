"""What cloud-init's own data source for EC2 reads, by its own functions: everything below meta-data, user data, the identity document."""
import json

from cloudinit import helpers
from cloudinit.sources import DataSourceEc2

source = DataSourceEc2.DataSourceEc2({}, None, helpers.Paths({"cloud_dir": "/run/cloud", "run_dir": "/run/cloud-run"}))
# The machine's firmware says so on EC2.
source._cloud_name = DataSourceEc2.CloudNames.AWS
source.url_max_wait = 5
crawled = source.crawl_metadata() or {}
metadata = crawled.get("meta-data", {})
print(json.dumps({"id": metadata.get("instance-id"), "user-data": bool(crawled.get("user-data")), "roles": "security-credentials" in json.dumps(metadata, default=str)}))
