//! Who is told of the tasks as which steps go on.

use std::sync::Arc;

use futures_util::future::BoxFuture;

type Tell = dyn Fn(String) -> BoxFuture<'static, ()> + Send + Sync;

/// See the module. Whoever waits for a task tells its name first, and waits until that is kept.
#[derive(Clone)]
pub struct Tasks(Option<Arc<Tell>>);

impl Tasks {
    /// Whoever keeps names by `tell`.
    pub fn told(tell: impl Fn(String) -> BoxFuture<'static, ()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Nobody.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(None)
    }

    /// Tells a name.
    pub async fn begun(&self, task: &str) {
        if let Some(tell) = &self.0 {
            tell(task.to_owned()).await;
        }
    }
}
