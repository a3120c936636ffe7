//! The names in Azure's paths, in their documented spelling.
//! Must never: leave a known name in another spelling, or have one name in both lists.

/// Names with something below them.
const BRANCHES: [&str; 30] = [
    "metadata",
    "instance",
    "attested",
    "identity",
    "oauth2",
    "compute",
    "network",
    "interface",
    "ipv4",
    "ipv6",
    "ipAddress",
    "subnet",
    "plan",
    "publicKeys",
    "storageProfile",
    "imageReference",
    "osDisk",
    "dataDisks",
    "resourceDisk",
    "image",
    "vhd",
    "managedDisk",
    "encryptionSettings",
    "diffDiskSettings",
    "tagsList",
    "securityProfile",
    "osProfile",
    "extendedLocation",
    "additionalCapabilities",
    "virtualMachineScaleSet",
];

/// Names with nothing below them.
const LEAVES: [&str; 79] = [
    "versions",
    "document",
    "loadbalancer",
    "scheduledevents",
    "token",
    "info",
    "reprovisiondata",
    "getplatformmetadata",
    "issuecredential",
    "location",
    "name",
    "offer",
    "osType",
    "platformFaultDomain",
    "platformUpdateDomain",
    "platformSubFaultDomain",
    "publisher",
    "product",
    "sku",
    "version",
    "vmId",
    "vmSize",
    "placementGroupId",
    "resourceGroupName",
    "subscriptionId",
    "tags",
    "vmScaleSetName",
    "zone",
    "physicalZone",
    "keyData",
    "path",
    "azEnvironment",
    "provider",
    "customData",
    "resourceId",
    "value",
    "isHostCompatibilityLayerVm",
    "isVmInStandbyPool",
    "secureBootEnabled",
    "virtualTpmEnabled",
    "encryptionAtHost",
    "securityType",
    "adminUsername",
    "computerName",
    "disablePasswordAuthentication",
    "licenseType",
    "evictionPolicy",
    "priority",
    "userData",
    "size",
    "type",
    "id",
    "hibernationEnabled",
    "bytesPerSecondThrottle",
    "diskCapacityBytes",
    "diskSizeGB",
    "isSharedDisk",
    "isUltraDisk",
    "opsPerSecondThrottle",
    "lun",
    "caching",
    "createOption",
    "writeAcceleratorEnabled",
    "enabled",
    "option",
    "uri",
    "storageAccountType",
    "communityGalleryImageId",
    "sharedGalleryImageId",
    "exactVersion",
    "privateIpAddress",
    "publicIpAddress",
    "address",
    "prefix",
    "macAddress",
    "deleteOption",
    "detachOption",
    "nonce",
    "toBeDetached",
];

/// Names that hold `{id}`.
const HOSTS: [&str; 2] = ["host", "hostGroup"];

/// Brings every known name of a metadata path to its documented spelling. A path that isn't below `/metadata` stays.
pub(super) fn canonicalise(segments: &mut [String]) {
    let is_metadata = |first: &String| first.eq_ignore_ascii_case("metadata");
    if !segments.first().is_some_and(is_metadata) {
        return;
    }
    for segment in segments {
        let known = BRANCHES.iter().chain(&LEAVES).chain(&HOSTS);
        if let Some(name) = known
            .into_iter()
            .find(|name| name.eq_ignore_ascii_case(segment))
        {
            (*name).clone_into(segment);
        }
    }
}

/// Whether nothing lies below this path. Where we don't know, something may.
pub(super) fn is_leaf(segments: &[String]) -> bool {
    segments
        .last()
        .is_some_and(|last| LEAVES.contains(&last.as_str()))
}

/// Whether the path goes on below a name that has nothing below it. A service that stops reading there would answer with
/// the leaf itself, which a deny of that leaf alone would not hold for.
pub(super) fn is_below_leaf(segments: &[String]) -> bool {
    let [above @ .., _] = segments else {
        return false;
    };
    above.iter().any(|name| LEAVES.contains(&name.as_str()))
}

/// Whether a segment is a number in another spelling than that of an array index.
pub(super) fn is_odd_number(segment: &str) -> bool {
    let digits = segment.trim_start_matches(['+', '-']);
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let plain = |index: u32| index.to_string() == segment;
    number && !segment.parse().is_ok_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_once_whatever_its_case() {
        let mut names: Vec<String> = BRANCHES
            .iter()
            .chain(&LEAVES)
            .chain(&HOSTS)
            .map(|name| name.to_ascii_lowercase())
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
