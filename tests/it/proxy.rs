//! Passes connections on, and breaks them, or holds answers back, when a test says so.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) struct Proxy {
    pub(crate) address: String,
    open: Arc<Mutex<JoinSet<()>>>,
    mute: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let open = Arc::new(Mutex::new(JoinSet::new()));
        let mute = watch::Sender::new(false);
        let (connections, is_mute) = (open.clone(), mute.subscribe());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let (to, is_mute) = (to.clone(), is_mute.clone());
                connections.lock().unwrap().spawn(async move {
                    if let Ok(far) = TcpStream::connect(to).await {
                        pass_on(near, far, is_mute).await;
                    }
                });
            }
        });
        Self {
            address,
            open,
            mute,
            _accepting: accepting,
        }
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        *self.open.lock().unwrap() = JoinSet::new();
    }

    /// Whatever the broker says from now on is lost, or not any more.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.mute.send_replace(is_mute);
    }
}

/// Ends with either side, whatever the reason.
async fn pass_on(near: TcpStream, far: TcpStream, is_mute: watch::Receiver<bool>) {
    let (mut asked, mut answering) = near.into_split();
    let (mut answers, mut asking) = far.into_split();
    let to_broker = tokio::io::copy(&mut asked, &mut asking);
    let to_client = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = answers.read(&mut bytes).await {
            if !*is_mute.borrow() && answering.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = to_broker => {}
        () = to_client => {}
    }
}
