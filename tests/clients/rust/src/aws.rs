//! `aws-config`: the chain that every program of the SDK starts with. Of its HTTP clients the one without TLS: the metadata
//! service has none.

use anyhow::{Context, Result};
use aws_config::BehaviorVersion;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_http_client::{Builder, Connector};

/// What services' clients take their credentials from.
pub(crate) struct Client(SharedCredentialsProvider);

impl Client {
    pub(crate) async fn new() -> Result<Self> {
        let http = Builder::new().build_with_connector_fn(|settings, _| {
            let mut builder = Connector::builder();
            builder.set_connector_settings(settings.cloned());
            builder.build_http()
        });
        let loaded = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .load()
            .await;
        Ok(Self(loaded.credentials_provider().context("no chain")?))
    }

    pub(crate) async fn ask(&self) -> Result<String> {
        let credentials = self.0.provide_credentials().await?;
        Ok(credentials.secret_access_key().to_owned())
    }
}
