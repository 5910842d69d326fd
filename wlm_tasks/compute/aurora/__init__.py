"""Sites whose jobs run on Apache Mesos under the scheduler Apache Aurora.

`site` opens a site: `backend` is one with a scratch directory that workers and agents share,
`sandboxed` one without, whose jobs carry their files (`carrying`, `sandbox`, `uploads`, `alone`).
`scheduler` is what both ask and say, `client`, `wire` and `form` the way there,
`answers` what comes back, `job` and `thermos` what is sent, `generations` how tasks are judged,
`notes` what the attempt's directory remembers of a submission, `options` the site's settings. The
field ids in ``aurora.thrift`` and the scheduler's rules are those of Aurora 0.16 to 0.22.
"""
