"""A generated feed with planted tastes: data of any size whose best reachable recall is known.

    python -m dssm.demo --config conf/demo.yaml --events 1000000 --clients 10000

The feed comes in the raw format of a post recommendation: a click log, two profile tables, a
catalogue and pretrained vectors. Behind it stand T topics:

- client u has a taste θ_u over the topics: Dirichlet weights on a few favourites;
- topic t has a distribution φ_t over the posts: its own, Zipf-like, and a small share b of all;
- a click draws a topic t ~ θ_u and then a post ~ φ_t, so that p(post | click, u) = Σ_t θ_ut φ_t(post).

`oracle/` holds θ_u and φ_·(post) as vectors: their inner product is that probability, and no model
can rank better on average. Impressions without a click are drawn mostly from b, which is also the
clicks' distribution over all clients, so popularity alone can't tell clicks from impressions.

Simpler than a real feed: tastes don't drift, clicks are independent given the taste, posts don't
age, and a position is drawn after the click instead of causing it.
"""
