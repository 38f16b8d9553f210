//! Turns: how many requests do something at once that costs much, in all and for one client; the others wait for theirs, without a
//! thread. Must not know what it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::peers;
use crate::refusal::Refusal;

/// Clients that are remembered before those are forgotten that have no turn and wait for none.
const MOST_CLIENTS: usize = 1024;

pub(crate) struct Turns {
    all: Arc<Semaphore>,
    for_one: usize,
    clients: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A turn for as long as it lives.
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// So many at once, and so many of them for one client.
    pub(crate) fn new(all: usize, for_one: usize) -> Turns {
        Turns { all: Arc::new(Semaphore::new(all)), for_one, clients: Mutex::default() }
    }

    /// Waits for a turn, for so long.
    ///
    /// # Errors
    /// If none came: the client may ask again.
    pub(crate) async fn take(&self, address: IpAddr, patience: Duration) -> Result<Turn, Refusal> {
        let own = self.of(address);
        let turns = async {
            // First the client's own: who has enough of them does not stand in everybody's way.
            let own = own.acquire_owned().await.map_err(Refusal::internal)?;
            let of_all = self.all.clone().acquire_owned().await.map_err(Refusal::internal)?;
            Ok(Turn { _own: own, _of_all: of_all })
        };
        tokio::time::timeout(patience, turns).await.unwrap_or_else(|_| {
            let text = "too many requests like this one are under way, of this client or of all: ask again";
            Err(Refusal::too_many(text, "5"))
        })
    }

    /// How many turns one client has.
    #[cfg(test)]
    pub(crate) fn for_one(&self) -> usize {
        self.for_one
    }

    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MOST_CLIENTS {
            // A turn, and who waits for one, has it too.
            clients.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        clients.entry(peers::client(address)).or_insert_with(|| Arc::new(Semaphore::new(self.for_one))).clone()
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    #[tokio::test]
    async fn each_client_has_its_turns_and_all_have_theirs() {
        const PATIENCE: Duration = Duration::from_millis(50);
        let turns = Turns::new(3, 2);
        let take = |text: &str| turns.take(text.parse().unwrap(), PATIENCE);
        let (first, _second) = (take("10.0.0.1").await.unwrap(), take("10.0.0.1").await.unwrap());
        let refused = take("10.0.0.1").await.err().unwrap();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        let _third = take("10.0.0.2").await.unwrap();
        assert!(take("10.0.0.3").await.is_err(), "there are no more");
        let (waited, ()) = tokio::join!(take("10.0.0.1"), async { drop(first) });
        assert!(waited.is_ok());
        for nth in 0..2 * MOST_CLIENTS {
            turns.of(IpAddr::from([11, 0, (nth >> 8) as u8, nth as u8]));
        }
        assert!(turns.clients.lock().unwrap().len() <= MOST_CLIENTS);
        assert!(turns.clients.lock().unwrap().contains_key(&"10.0.0.2".parse::<IpAddr>().unwrap()));
    }
}
