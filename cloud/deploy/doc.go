// Package deploy holds the CloudFormation templates of the cloud half,
// template.yaml and site.yaml, and the tests that hold them against their
// documents: who may do what on which resource. docs/cloud-deploy.md is the
// guide. cfn-lint looks at them too, in make interop-cloud.
package deploy
