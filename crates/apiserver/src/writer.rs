//! Writes from inside the process: the same registry path as a client's request, with an identity, past the
//! authorizers. For handlers, hooks and bootstrap.

use orkd_api::status::Status;
use serde_json::Value;

use crate::pipeline::ApiServer;
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::{self, Target};
use crate::user::UserInfo;

/// Writes as a user. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    server: ApiServer,
    user: UserInfo,
    dry_run: bool,
    manager: String,
}

impl Writer {
    /// Writes as `user`.
    pub fn new(server: ApiServer, user: UserInfo) -> Self {
        Writer { server, user, dry_run: false, manager: "orkd-apiserver".into() }
    }

    /// Who writes.
    pub fn user(&self) -> &UserInfo {
        &self.user
    }

    /// The same with another identity.
    pub fn as_user(&self, user: UserInfo) -> Self {
        Writer { user, ..self.clone() }
    }

    /// The same, storing nothing.
    pub fn dry_run(&self, dry_run: bool) -> Self {
        Writer { dry_run, ..self.clone() }
    }

    /// The same with another field manager.
    pub fn manager(&self, manager: &str) -> Self {
        Writer { manager: manager.into(), ..self.clone() }
    }

    fn options(&self) -> WriteOptions {
        WriteOptions::internal(self.dry_run, &self.manager)
    }

    fn target<'a>(
        &self,
        group: &str,
        resource: &str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> Result<Target<'a>, Status> {
        let resource = self.server.resource(group, resource)?;
        Ok(Target { resource, subresource, namespace, name })
    }

    /// Reads one object, linearizable.
    pub async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let target = self.target(group, resource, "", namespace, name)?;
        registry::get(&self.server, &target).await
    }

    /// Creates an object. `obj` needs no `apiVersion` and `kind`.
    pub async fn create(&self, group: &str, resource: &str, namespace: &str, obj: Value) -> Result<Value, Status> {
        let target = self.target(group, resource, "", namespace, "")?;
        let cx = registry::Request::new(&self.server, &self.user);
        registry::create::create(&cx, &target, obj, &self.options()).await
    }

    /// Changes an object by a function, again and again until no other writer was faster. Where the object carries
    /// no change, nothing is written. `subresource` is empty for the object itself.
    pub async fn update_with(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
        change: impl Fn(&mut Value) -> Result<(), Status> + Send + Sync,
    ) -> Result<Value, Status> {
        let target = self.target(group, resource, subresource, namespace, name)?;
        let cx = registry::Request::new(&self.server, &self.user);
        registry::update::update_with(&cx, &target, &change, &self.options()).await
    }

    /// Replaces an object; with a resourceVersion in it, only if that still stands.
    pub async fn update(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
        obj: Value,
    ) -> Result<Value, Status> {
        let target = self.target(group, resource, subresource, namespace, name)?;
        let cx = registry::Request::new(&self.server, &self.user);
        registry::update::put(&cx, &target, obj, &self.options()).await.map(|(value, _)| value)
    }

    /// Deletes an object. The object as it was or as it now is (when it has finalizers or a grace period).
    pub async fn delete(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<Value, Status> {
        let target = self.target(group, resource, "", namespace, name)?;
        let cx = registry::Request::new(&self.server, &self.user);
        let options = DeleteOptions { dry_run: options.dry_run || self.dry_run, ..options };
        registry::delete::delete(&cx, &target, &options).await.map(|d| d.object)
    }
}
