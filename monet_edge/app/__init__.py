"""The local page of `monet-edge app`: a server on 127.0.0.1 for one person, and the page that it serves. Needs the extra `app`.

`guard` lets nobody else in, `cases` keeps what is uploaded in a private folder and bounds it, `worker` does one scan after
the other, `findings` and `results` are what became of one, `routes` is what the page may ask for, `server` runs it all. The page
is in page/, the viewer that it uses in vendor/.
"""
