//! Changing definitions one process at a time.

use tokio::sync::oneshot;

/// While this lasts, no other process that shares the books begins a change of definitions.
#[derive(Debug, Default)]
pub struct Alone(Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>);

/// Where a store waits until its caller is no longer [`Alone`].
#[derive(Debug)]
pub struct Together {
    over: oneshot::Receiver<()>,
    told: oneshot::Sender<()>,
}

impl Alone {
    /// For books that are shared: the store lets others go on once the second part says so.
    pub fn until_over() -> (Self, Together) {
        let (begun, over) = oneshot::channel();
        let (told, ended) = oneshot::channel();
        (Self(Some((begun, ended))), Together { over, told })
    }

    /// Ends it, and waits until the store has let others go on. When it is dropped, nobody waits.
    pub async fn end(self) {
        if let Some((begun, ended)) = self.0 {
            drop(begun);
            let _ = ended.await;
        }
    }
}

impl Together {
    /// Resolves when the caller is done. May be asked again.
    pub async fn over(&mut self) {
        let _ = (&mut self.over).await;
    }

    /// Others can go on.
    pub fn tell(self) {
        let _ = self.told.send(());
    }
}
