//! The table of the Engine API: every route of Docker's, with its handler or the reason why there is none.
//! Owns the table; must not do anything itself.

use std::future::Future;
use std::pin::Pin;

use hyper::{Method, StatusCode};

use crate::call::{Call, Outcome};
use crate::handlers::{attach, containers, exec, images, networks, observe, system, volumes};
use crate::router::Router;

/// A handler, ready to be called.
pub type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What a route leads to.
pub enum Action {
    /// A handler.
    Serve(Handler),
    /// An answer that is always the same error.
    Refuse(StatusCode, &'static str),
}

macro_rules! serve {
    ($router:ident: $($method:ident $pattern:literal => $handler:path,)*) => {
        $($router.add(Method::$method, $pattern, Action::Serve(|call| Box::pin($handler(call))));)*
    };
}

/// Docker's routes that brig does not have yet, with the feature that is missing.
const MISSING: &[(Method, &str, &str)] = &[
    (Method::POST, "/build", "building images is not supported yet"),
    (Method::POST, "/build/cancel", "building images is not supported yet"),
    (Method::POST, "/session", "building images with BuildKit is not supported yet"),
    (Method::POST, "/grpc", "building images with BuildKit is not supported yet"),
    (Method::HEAD, "/containers/{name...}/archive", "copying files from and to a container is not supported yet"),
    (Method::GET, "/containers/{name...}/archive", "copying files from and to a container is not supported yet"),
    (Method::PUT, "/containers/{name...}/archive", "copying files from and to a container is not supported yet"),
    (Method::GET, "/containers/{name...}/attach/ws", "attaching through a WebSocket is not supported yet"),
    (Method::GET, "/containers/{name...}/checkpoints", "checkpoints are not supported yet"),
    (Method::POST, "/containers/{name...}/checkpoints", "checkpoints are not supported yet"),
    (Method::DELETE, "/containers/{name...}/checkpoints/{id}", "checkpoints are not supported yet"),
    (Method::POST, "/networks/create", "networks of your own are not supported yet: bridge, host and none are there"),
    (Method::POST, "/networks/{name...}/connect", "connecting a container to a further network is not supported yet"),
    (Method::POST, "/networks/{name...}/disconnect", "disconnecting a container from a network is not supported yet"),
    (Method::PUT, "/volumes/{name...}", "cluster volumes are not supported"),
    (Method::GET, "/plugins/privileges", "plugins are not supported"),
    (Method::POST, "/plugins/pull", "plugins are not supported"),
    (Method::POST, "/plugins/create", "plugins are not supported"),
    (Method::POST, "/swarm/init", "swarm mode is not supported"),
    (Method::POST, "/swarm/join", "swarm mode is not supported"),
];

const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
    this node to swarm and try again.";

/// Routes of a swarm: what Docker answers where there is none.
const SWARM: &[(Method, &str)] = &[
    (Method::GET, "/swarm"),
    (Method::POST, "/swarm/leave"),
    (Method::POST, "/swarm/update"),
    (Method::GET, "/swarm/unlockkey"),
    (Method::POST, "/swarm/unlock"),
    (Method::GET, "/nodes"),
    (Method::GET, "/nodes/{id}"),
    (Method::DELETE, "/nodes/{id}"),
    (Method::POST, "/nodes/{id}/update"),
    (Method::GET, "/services"),
    (Method::POST, "/services/create"),
    (Method::GET, "/services/{id}"),
    (Method::DELETE, "/services/{id}"),
    (Method::POST, "/services/{id}/update"),
    (Method::GET, "/services/{id}/logs"),
    (Method::GET, "/tasks"),
    (Method::GET, "/tasks/{id}"),
    (Method::GET, "/tasks/{id}/logs"),
    (Method::GET, "/secrets"),
    (Method::POST, "/secrets/create"),
    (Method::GET, "/secrets/{id}"),
    (Method::DELETE, "/secrets/{id}"),
    (Method::POST, "/secrets/{id}/update"),
    (Method::GET, "/configs"),
    (Method::POST, "/configs/create"),
    (Method::GET, "/configs/{id}"),
    (Method::DELETE, "/configs/{id}"),
    (Method::POST, "/configs/{id}/update"),
];

/// What is brig's alone.
fn own() -> Router<Action> {
    let mut router = Router::new();
    serve!(router:
        POST "/brig/system/check" => system::check,
        GET "/brig/manifests/{name...}/json" => images::look,
        POST "/brig/manifests/{name...}/push" => images::push_list,
    );
    router
}

/// Images.
fn add_images(router: &mut Router<Action>) {
    serve!(router:
        GET "/images/json" => images::list,
        POST "/images/create" => images::create,
        POST "/images/load" => images::load,
        POST "/images/prune" => images::prune,
        GET "/images/search" => images::search,
        GET "/distribution/{name...}/json" => images::distribution,
        GET "/images/get" => images::save,
        GET "/images/{name...}/get" => images::save_one,
        GET "/images/{name...}/json" => images::inspect,
        GET "/images/{name...}/history" => images::history,
        GET "/images/{name...}/attestations" => images::attestations,
        POST "/images/{name...}/tag" => images::tag,
        POST "/images/{name...}/push" => images::push,
        DELETE "/images/{name...}" => images::remove,
    );
}

/// The whole table.
pub fn table() -> Router<Action> {
    let mut router = own();
    add_images(&mut router);
    serve!(router:
        GET "/_ping" => system::ping,
        HEAD "/_ping" => system::ping,
        GET "/info" => system::info,
        GET "/version" => system::version,
        POST "/auth" => system::auth,
        GET "/events" => observe::events,
        GET "/system/df" => system::disk_usage,
        GET "/plugins" => system::plugins,
        POST "/build/prune" => system::build_prune,
        GET "/containers/json" => containers::list,
        POST "/containers/create" => containers::create,
        POST "/containers/prune" => containers::prune,
        GET "/containers/{name...}/json" => containers::inspect,
        GET "/containers/{name...}/top" => containers::top,
        GET "/containers/{name...}/logs" => observe::logs,
        GET "/containers/{name...}/stats" => observe::stats,
        POST "/containers/{name...}/start" => containers::start,
        POST "/containers/{name...}/stop" => containers::stop,
        POST "/containers/{name...}/restart" => containers::restart,
        POST "/containers/{name...}/kill" => containers::kill,
        POST "/containers/{name...}/pause" => containers::pause,
        POST "/containers/{name...}/unpause" => containers::unpause,
        POST "/containers/{name...}/rename" => containers::rename,
        POST "/containers/{name...}/update" => containers::update,
        POST "/containers/{name...}/resize" => containers::resize,
        POST "/containers/{name...}/wait" => observe::wait,
        POST "/containers/{name...}/attach" => attach::attach,
        GET "/containers/{name...}/changes" => containers::changes,
        GET "/containers/{name...}/export" => containers::export,
        POST "/commit" => containers::commit,
        DELETE "/containers/{name...}" => containers::remove,
        POST "/containers/{name...}/exec" => exec::create,
        POST "/exec/{name...}/start" => attach::exec_start,
        POST "/exec/{name...}/resize" => exec::resize,
        GET "/exec/{name...}/json" => exec::inspect,
        GET "/networks" => networks::list,
        GET "/networks/" => networks::list,
        POST "/networks/prune" => networks::prune,
        GET "/networks/{name...}" => networks::inspect,
        DELETE "/networks/{name...}" => networks::remove,
        GET "/volumes" => volumes::list,
        POST "/volumes/create" => volumes::create,
        POST "/volumes/prune" => volumes::prune,
        GET "/volumes/{name...}" => volumes::inspect,
        DELETE "/volumes/{name...}" => volumes::remove,
    );
    for (method, pattern, message) in MISSING {
        router.add(method.clone(), pattern, Action::Refuse(StatusCode::NOT_IMPLEMENTED, message));
    }
    for (method, pattern) in SWARM {
        router.add(method.clone(), pattern, Action::Refuse(StatusCode::SERVICE_UNAVAILABLE, NO_SWARM));
    }
    router
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(method: Method, path: &str) -> Option<&'static str> {
        let table = table();
        table.find(&method, path).map(|(action, _)| match action {
            Action::Serve(_) => "served",
            Action::Refuse(_, message) => message,
        })
    }

    #[test]
    fn routes_that_look_alike_are_told_apart() {
        assert_eq!(action(Method::GET, "/images/json"), Some("served"));
        assert_eq!(action(Method::GET, "/images/a/b/json"), Some("served"));
        assert_eq!(action(Method::GET, "/images/get"), Some("served"));
        assert_eq!(action(Method::POST, "/images/a/push"), Some("served"));
        assert_eq!(action(Method::GET, "/networks/"), Some("served"));
        // Names of images are looked for among containers too: what is not there is said by name.
        assert_eq!(action(Method::GET, "/containers/r.io:5/a/b/json"), Some("served"));
        assert_eq!(action(Method::DELETE, "/containers/a/b"), Some("served"));
        assert_eq!(action(Method::POST, "/containers/prune"), Some("served"));
        assert_eq!(action(Method::GET, "/nodes/x"), Some(NO_SWARM));
        assert_eq!(action(Method::GET, "/nope"), None);
        assert_eq!(action(Method::PUT, "/containers/json"), None);
    }
}
