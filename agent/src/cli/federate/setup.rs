//! The commands of each cloud, and the same in Terraform. Values come from policy, which has checked them, and are quoted all the
//! same: a subject may hold what a shell or HCL would read.

use imds_guard_core::policy::federated::Federated;
use imds_guard_core::policy::federation::Exchange;
use serde::Serialize;
use serde_json::{Value, json};

/// What to set up.
#[derive(Debug, Serialize)]
pub(super) struct Setup {
    pub(super) identity: String,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) audience: String,
    pub(super) notes: Vec<String>,
    pub(super) commands: Vec<String>,
    pub(super) terraform: String,
    /// AWS: what the role has to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trust_policy: Option<Value>,
}

/// For one identity. `issuer`: the configured one.
pub(super) fn of(found: &Federated, issuer: Option<&str>, workload: &str) -> Setup {
    let federation = &found.federation;
    let mut notes = vec![];
    let (issuer, subject) = match federation.file() {
        Some(file) => {
            notes.push(format!("the assertion stands in {file}: its `iss` and `sub` go where ISSUER and SUBJECT stand"));
            ("ISSUER".to_owned(), "SUBJECT".to_owned())
        }
        None => (
            issuer.unwrap_or_default().to_owned(),
            found.subject.as_deref().unwrap_or_default().to_owned(),
        ),
    };
    if subject.contains('{') {
        notes.push(
            "what stands in braces differs from caller to caller: set this up once for each"
                .to_owned(),
        );
    }
    let mut setup = Setup {
        identity: found.identity.name.to_string(),
        issuer,
        subject,
        audience: federation.audience.to_string(),
        notes,
        commands: vec![],
        terraform: String::new(),
        trust_policy: None,
    };
    match &federation.exchange {
        Exchange::Entra { .. } => azure(&mut setup, found, workload),
        Exchange::Aws { .. } => aws(&mut setup, found),
        Exchange::Google { provider, .. } => {
            let standard = provider.default_audience() == setup.audience;
            let parts = Parts {
                project: provider.project(),
                pool: provider.pool(),
                provider: provider.id(),
                standard,
            };
            gcp(&mut setup, found, &parts);
        }
    }
    setup
}

/// For a POSIX shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// For HCL: JSON's escapes, and its two templates.
fn hcl(text: &str) -> String {
    let text = Value::from(text).to_string();
    text.replace("${", "$${").replace("%{", "%%{")
}

fn azure(setup: &mut Setup, found: &Federated, workload: &str) {
    let name: String = format!("imds-guard-{workload}")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '-'
            }
        })
        .take(120)
        .collect();
    let client = found.identity.client_id.as_deref().unwrap_or_default();
    let Setup {
        issuer,
        subject,
        audience,
        ..
    } = &*setup;
    let body = json!({"name": name, "issuer": issuer, "subject": subject, "audiences": [audience]});
    let application = format!(
        "az ad app federated-credential create --id {} --parameters {}",
        quoted(client),
        quoted(&body.to_string())
    );
    let managed = format!(
        "# or, where {client} is a user-assigned managed identity:\naz identity federated-credential create --resource-group GROUP --identity-name IDENTITY --name {name} \\\n  --issuer {} --subject {} --audiences {}",
        quoted(issuer),
        quoted(subject),
        quoted(audience)
    );
    setup.terraform = format!(
        "resource \"azuread_application_federated_identity_credential\" \"{name}\" {{\n  application_id = data.azuread_application.APPLICATION.id # client id {client}\n  display_name   = {}\n  issuer         = {}\n  subject        = {}\n  audiences      = [{}]\n}}",
        hcl(&name),
        hcl(issuer),
        hcl(subject),
        hcl(audience)
    );
    setup.notes.push("an application or identity has 20 of these at most; one that was made just now takes some minutes to work".to_owned());
    setup.commands = vec![application, managed];
}

fn aws(setup: &mut Setup, found: &Federated) {
    let role = found.identity.role.as_deref().unwrap_or_default();
    let mut parts = role.split(':');
    let partition = parts.nth(1).unwrap_or("aws");
    let account = parts.nth(2).unwrap_or_default();
    let name = found.identity.role_name().unwrap_or_default();
    let Setup {
        issuer,
        subject,
        audience,
        ..
    } = &*setup;
    let provider = issuer.strip_prefix("https://").unwrap_or(issuer);
    let mut actions = vec!["sts:AssumeRoleWithWebIdentity"];
    if !found.identity.tags.is_empty() {
        actions.push("sts:TagSession");
    }
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": { "Federated": format!("arn:{partition}:iam::{account}:oidc-provider/{provider}") },
            "Action": actions,
            "Condition": { "StringEquals": { format!("{provider}:aud"): audience, format!("{provider}:sub"): subject } },
        }],
    });
    let make = format!(
        "# once in account {account}:\naws iam create-open-id-connect-provider --url {} --client-id-list {}",
        quoted(issuer),
        quoted(audience)
    );
    let change = format!(
        "aws iam update-assume-role-policy --role-name {} --policy-document {}",
        quoted(name),
        quoted(&trust.to_string())
    );
    setup.terraform = format!(
        "resource \"aws_iam_openid_connect_provider\" \"imds_guard\" {{\n  url            = {}\n  client_id_list = [{}]\n}}\n\nresource \"aws_iam_role\" {} {{\n  name               = {}\n  assume_role_policy = {}\n}}",
        hcl(issuer),
        hcl(audience),
        hcl(name),
        hcl(name),
        hcl(&trust.to_string())
    );
    setup.notes.push("the second command puts this in place of the role's whole trust policy: where it has one that others need, add the statement to it".to_owned());
    setup.notes.push("without the condition on `sub`, every workload of every host with this issuer could take the role".to_owned());
    setup.commands = vec![make, change];
    setup.trust_policy = Some(trust);
}

struct Parts<'a> {
    project: &'a str,
    pool: &'a str,
    provider: &'a str,
    /// Whether the audience is what the provider takes without being told.
    standard: bool,
}

fn gcp(setup: &mut Setup, found: &Federated, parts: &Parts<'_>) {
    let Parts {
        project,
        pool,
        provider,
        standard,
    } = parts;
    let Setup {
        issuer,
        subject,
        audience,
        ..
    } = &*setup;
    let allowed = if *standard {
        String::new()
    } else {
        format!(" --allowed-audiences={}", quoted(audience))
    };
    let mut commands = vec![
        format!(
            "gcloud iam workload-identity-pools create {pool} --project={project} --location=global"
        ),
        format!(
            "gcloud iam workload-identity-pools providers create-oidc {provider} --project={project} --location=global \\\n  --workload-identity-pool={pool} --issuer-uri={} --attribute-mapping=google.subject=assertion.sub{allowed}",
            quoted(issuer)
        ),
    ];
    let member = format!(
        "principal://iam.googleapis.com/projects/{project}/locations/global/workloadIdentityPools/{pool}/subject/{subject}"
    );
    let mut terraform = format!(
        "resource \"google_iam_workload_identity_pool_provider\" \"imds_guard\" {{\n  project                            = {}\n  workload_identity_pool_id          = {}\n  workload_identity_pool_provider_id = {}\n  attribute_mapping                  = {{ \"google.subject\" = \"assertion.sub\" }}\n  oidc {{\n    issuer_uri = {}\n{}  }}\n}}",
        hcl(project),
        hcl(pool),
        hcl(provider),
        hcl(issuer),
        if *standard {
            String::new()
        } else {
            format!("    allowed_audiences = [{}]\n", hcl(audience))
        }
    );
    if let Some(account) = &found.identity.account {
        commands.push(format!(
            "gcloud iam service-accounts add-iam-policy-binding {} --role=roles/iam.workloadIdentityUser \\\n  --member={}",
            quoted(account),
            quoted(&member)
        ));
        terraform.push_str(&format!(
            "\n\nresource \"google_service_account_iam_member\" \"imds_guard\" {{\n  service_account_id = \"projects/-/serviceAccounts/{account}\"\n  role               = \"roles/iam.workloadIdentityUser\"\n  member             = {}\n}}",
            hcl(&member)
        ));
    } else {
        setup.notes.push(format!(
            "without an `account`, rights are granted to the principal itself: {member}"
        ));
    }
    setup.commands = commands;
    setup.terraform = terraform;
}

#[cfg(test)]
mod tests {
    use super::{hcl, quoted};

    #[test]
    fn no_value_is_read_by_a_shell_or_by_terraform() {
        assert_eq!(quoted("a'b $(c)"), r"'a'\''b $(c)'");
        assert_eq!(hcl(r#"a"b ${c} %{d}"#), r#""a\"b $${c} %%{d}""#);
    }
}
