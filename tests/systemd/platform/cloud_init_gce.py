"""What cloud-init's own data source for Google reads, by its own functions."""
import json

from cloudinit.sources import DataSourceGCE
from cloudinit.url_helper import readurl  # noqa: F401


class Once:
    num_retries = 0
    sec_between_retries = 1


read = DataSourceGCE.read_md(url_params=Once(), platform_check=False)
print(json.dumps({"id": (read["meta-data"] or {}).get("instance-id"), "user-data": bool(read["user-data"]), "reason": read["reason"]}))
