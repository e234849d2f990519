"""hwsparse as a service: models in, optimised artifacts out, over gRPC.

    v1/             the protocol's types, generated from protos/
    wire.py         the protocol's types to and from those of the house; nothing past it knows the former
    operation.py    a piece of work as callers see it
    jobfiles.py     what server and worker tell each other, as files in the job's directory
    jobtable.py     the jobs there are, in a database
    worker.py       one worker process: started, watched, ended
    jobs.py         the jobs' lives: queued, run, cancelled, done
    room.py         how much the server may keep
    uploads.py      the files that callers send
    status.py       errors to and from gRPC status
    services.py     the protocol's methods
    server.py       the server
    transfer.py     files on their way, at the client's end
    client.py       the client

Imports neither torch, optuna nor tvm: the work is done in processes that the caller of `server` names.
"""
