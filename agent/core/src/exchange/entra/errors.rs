//! Entra's error codes that a federated exchange can meet: what each means, and what to do about it. The codes are stable, the
//! sentences that come with them aren't.

/// Whether asking again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: somebody has to change something.
    No,
    /// For some minutes after a federated credential was made, until all of Entra knows of it.
    Spreading,
    /// Later, by itself.
    Later,
}

/// One code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// `AADSTS` stands before it.
    pub code: u32,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// Whether asking again helps.
    pub retry: Retry,
}

const COMPARE: &str = "compare with `imds-guard federate azure --workload NAME`: issuer, subject and audience count to the letter; a credential made just now takes some minutes to be known everywhere";

/// The table.
pub const ERRORS: [Error; 21] = [
    row(
        70021,
        "no federated credential of the application matches the assertion",
        COMPARE,
        Retry::Spreading,
    ),
    row(
        700_211,
        "no federated credential of the application has this issuer",
        COMPARE,
        Retry::Spreading,
    ),
    row(
        700_212,
        "no federated credential of the application has this audience",
        COMPARE,
        Retry::Spreading,
    ),
    row(
        700_213,
        "no federated credential of the application has this subject",
        COMPARE,
        Retry::Spreading,
    ),
    row(
        7_002_137,
        "the subject has a form that Microsoft keeps for itself",
        "give the identity another `subject`",
        Retry::No,
    ),
    row(
        7_002_138,
        "the subject differs from the federated credential's in upper and lower case",
        "write both alike: they are compared to the letter",
        Retry::No,
    ),
    row(
        70025,
        "the application has no federated credential at all",
        "make the one that `imds-guard federate azure --workload NAME` prints",
        Retry::Spreading,
    ),
    row(
        700_016,
        "the tenant has no application with this client id",
        "compare `client_id` and `tenant_id` of the identity with the application's",
        Retry::No,
    ),
    row(
        90002,
        "there is no such tenant",
        "compare `tenant_id` and `authority` of the identity with the application's",
        Retry::No,
    ),
    row(
        900_023,
        "what the identity calls its tenant is none",
        "write the tenant's id, or a domain that it has proved",
        Retry::No,
    ),
    row(
        700_024,
        "the assertion isn't valid at this time",
        "set this host's clock (`timedatectl`); of an assertion in a file, see that it is renewed",
        Retry::No,
    ),
    row(
        700_027,
        "the assertion's signature was not accepted",
        "publish the issuer's current keys (`imds-guard issuer publish`): Entra may know older ones for a while",
        Retry::No,
    ),
    row(
        50013,
        "the assertion was not accepted",
        "see that issuer and keys are published (`imds-guard issuer publish --check`)",
        Retry::No,
    ),
    row(
        7_000_215,
        "a client secret was expected",
        "a proxy between this host and Entra alters requests: let `authority` be reached directly",
        Retry::No,
    ),
    row(
        50166,
        "Entra can't read the issuer's discovery document",
        "see that it is served to the world (`imds-guard issuer publish --check`)",
        Retry::Later,
    ),
    row(
        501_661,
        "Entra can't read the issuer's discovery document or keys",
        "see that both are served to the world (`imds-guard issuer publish --check`)",
        Retry::Later,
    ),
    row(
        90061,
        "Entra can't reach the issuer",
        "see that its documents are served to the world (`imds-guard issuer publish --check`)",
        Retry::Later,
    ),
    row(
        500_011,
        "the tenant doesn't know the resource",
        "compare the rule's `resource` with the application id URI; it may need consent in this tenant",
        Retry::No,
    ),
    row(
        50001,
        "the tenant doesn't know the resource",
        "compare the rule's `resource` with the application id URI; it may need consent in this tenant",
        Retry::No,
    ),
    row(
        70011,
        "the scope is none",
        "write the rule's `resource` as it stands in the application id URI",
        Retry::No,
    ),
    row(
        53003,
        "a conditional access policy of the tenant blocks it",
        "ask the tenant's administrator: such a policy may name this host's address",
        Retry::No,
    ),
];

const fn row(code: u32, meaning: &'static str, remedy: &'static str, retry: Retry) -> Error {
    Error {
        code,
        meaning,
        remedy,
        retry,
    }
}

/// The row of a code.
pub(super) fn find(code: u32) -> Option<&'static Error> {
    ERRORS.iter().find(|error| error.code == code)
}
