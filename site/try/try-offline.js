// The service worker of the page to draw on, for two things. It keeps a copy of all that the page loads, so that the
// next visit loads nothing and needs no network. And it adds the two headers without which a browser lets no page use
// several threads, and which a host of static files seldom sends.

const CACHE = 'draw';
const ISOLATED = {'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp'};
// Large files have a key in their name, which is another when they change: what has been loaded once is never asked for.
const KEYED = /^(.*\/[a-z-]+)-[0-9a-f]{12}\.\w+$/;

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', event => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', event => {
    const {method, url} = event.request;
    if (method === 'GET' && new URL(url).origin === location.origin) event.respondWith(answer(event));
});

async function answer(event) {
    const {request} = event, cache = await caches.open(CACHE);
    const kept = () => cache.match(request, {ignoreSearch: true});
    let response = KEYED.test(request.url) ? await kept() : null;
    if (!response) {
        try {
            response = await fetch(request);
            // Without room for a copy the page works all the same.
            if (response.status === 200) event.waitUntil(keep(cache, request, response.clone()).catch(() => {}));
        } catch (error) {
            response = await kept();
            if (!response) throw error;
        }
    }
    const headers = new Headers(response.headers);
    for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
    return new Response(response.body, {status: response.status, statusText: response.statusText, headers});
}

async function keep(cache, request, response) {
    await cache.put(request, response);
    const name = KEYED.exec(request.url)?.[1];
    const older = (await cache.keys()).filter(({url}) => name && url !== request.url && KEYED.exec(url)?.[1] === name);
    await Promise.all(older.map(old => cache.delete(old)));
}
