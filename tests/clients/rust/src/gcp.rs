//! `google-cloud-auth`: the metadata server's credentials, where `GCE_METADATA_HOST` says that it is.

use anyhow::Result;
use google_cloud_auth::credentials::{AccessTokenCredentials, mds};

/// Credentials that renew themselves.
pub(crate) struct Client(AccessTokenCredentials);

impl Client {
    pub(crate) fn new(scopes: &[String]) -> Result<Self> {
        crate::provider();
        let mut builder = mds::Builder::default();
        if !scopes.is_empty() {
            builder = builder.with_scopes(scopes.iter().cloned());
        }
        Ok(Self(builder.build_access_token_credentials()?))
    }

    pub(crate) async fn ask(&self) -> Result<String> {
        Ok(self.0.access_token().await?.token)
    }
}
