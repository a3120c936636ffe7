#!/bin/sh
# What a script does that wants a credential: curl, and nothing else.
#
# usage: curl.sh azure RESOURCE | aws | aws-v1 | gcp [SCOPES]
# Prints the status code and, on the same line, what the service said. Exit code 0 where that is 200.

ask() {
  said=$(curl -sS -m 10 -w ' %{http_code}' "$@" | tr -d '\n\r')
  code=${said##* }
}

at=http://169.254.169.254
case $1 in
azure)
  ask -H 'Metadata: true' -G --data-urlencode "resource=$2" "$at/metadata/identity/oauth2/token?api-version=2018-02-01"
  ;;
aws | aws-v1)
  session=
  if [ "$1" = aws ]; then
    session=$(curl -sS -m 10 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$at/latest/api/token")
  fi
  ask ${session:+-H "X-aws-ec2-metadata-token: $session"} "$at/latest/meta-data/iam/security-credentials/"
  if [ "$code" = 200 ]; then
    ask ${session:+-H "X-aws-ec2-metadata-token: $session"} "$at/latest/meta-data/iam/security-credentials/${said% *}"
  fi
  ;;
gcp)
  ask -H 'Metadata-Flavor: Google' "$at/computeMetadata/v1/instance/service-accounts/default/token${2:+?scopes=$2}"
  ;;
esac
echo "$code ${said% *}"
[ "$code" = 200 ]
