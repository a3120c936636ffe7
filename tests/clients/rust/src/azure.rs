//! `azure_identity`: managed identity, over the transport that the crate brings.

use anyhow::Result;
use azure_core::credentials::TokenCredential;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use std::sync::Arc;

/// A credential for one resource.
pub(crate) struct Client {
    credential: Arc<ManagedIdentityCredential>,
    scope: String,
}

impl Client {
    pub(crate) fn new(words: &[String]) -> Result<Self> {
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id: words.get(1).cloned().map(UserAssignedId::ClientId),
            ..Default::default()
        };
        crate::provider();
        Ok(Self {
            credential: ManagedIdentityCredential::new(Some(options))?,
            scope: format!("{}/.default", words.first().map_or("", String::as_str)),
        })
    }

    pub(crate) async fn ask(&self) -> Result<String> {
        let token = self.credential.get_token(&[&self.scope], None).await?;
        Ok(token.token.secret().to_owned())
    }
}
