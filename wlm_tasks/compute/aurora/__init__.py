"""Sites whose jobs run on Apache Mesos under the scheduler Apache Aurora.

`backend` is the site, `client` and `wire` the way to the scheduler, `answers` what its answers
mean, `job` and `thermos` what it is sent, `generations` how its tasks are judged, `notes` what the
attempt's directory remembers of a submission, `options` the site's settings. The field ids in
``aurora.thrift`` and the scheduler's rules are those of Aurora 0.16 to 0.22.
"""
